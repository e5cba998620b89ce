"""`mosso chat`: a conversation in the terminal, the thinking apart from the answer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from mosso.cli.client import ChatClient, Delta, ToolCall
from mosso.cli.engine_options import brief_engine_options, engine_settings
from mosso.cli.terminal import harmless
from mosso.cli.tool_options import mcp_config_option
from mosso.core.errors import UsageError

if TYPE_CHECKING:
    from mosso.cli.chat_tools import McpTools

SHOWN_RESULT = 1000  # characters of a tool's result; the model gets all of it
EFFORTS = ("low", "medium", "high")
MIN_PIECES = 5
HELP = """/effort low|medium|high   how long the model thinks
/system TEXT              set the system prompt and start anew
/new                      start anew
/quit                     leave (so do Ctrl-D and, at the prompt, Ctrl-C); Ctrl-C stops an answer"""


@click.command("chat")
@click.argument("model", metavar="[MODEL|URL]", default="demo")
@click.option("--effort", type=click.Choice(EFFORTS), default="medium", show_default=True)
@click.option("--system", help="The system prompt.")
@click.option(
    "--tools", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON list of tools."
)
@mcp_config_option
@click.option("--temperature", type=float, help="Default: the server's.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of one answer.")
@click.option("--api-key", envvar="OPENAI_API_KEY", help="For a URL that asks for one.")
@click.option("--name", help="Which of a server's models; default: its first.")
@brief_engine_options
def command(
    model: str,
    effort: str,
    system: str | None,
    tools: Path | None,
    mcp_config: Path | None,
    temperature: float | None,
    max_tokens: int | None,
    api_key: str | None,
    name: str | None,
    **engine: Any,
) -> None:
    """Talk to MODEL, or to a running server at URL.

    The thinking is dimmed; tool calls are shown and you type their results, except those of MCP servers
    (--mcp-config), which are run. Piped input works too, one message a line:
    echo "what is 12 * 12?" | mosso chat. Where the output is a file or a pipe, only the answers go there, all
    else to stderr.
    """
    options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    options = {key: value for key, value in options.items() if value is not None}
    if tools:
        options["tools"] = read_tools(tools)
    with ExitStack() as owned:
        servers = None
        if mcp_config is not None:
            from mosso.cli.chat_tools import McpTools

            servers = owned.enter_context(McpTools(mcp_config))
            options["tools"] = options.get("tools", []) + servers.functions
        client = owned.enter_context(connected(model, api_key, engine))
        screen = Screen(Console(highlight=False), interactive=sys.stdin.isatty())
        Chat(client, name or client.first_model(), effort, system, options, screen, servers).run()


@contextmanager
def connected(
    model: str, api_key: str | None = None, engine: dict[str, Any] | None = None, *, notes: bool = False
) -> Iterator[ChatClient]:
    """A client of the server at a URL, or of one started here for a model, with these flags of its engine.

    What the engine chose is told where there are flags, or `notes`.
    """
    engine = {flag: value for flag, value in (engine or {}).items() if value is not None}
    if model.startswith(("http://", "https://")):
        if engine:
            flags = ", ".join("--" + flag.replace("_", "-") for flag in engine)
            raise UsageError(f"{flags}: the engine behind a URL has its settings already")
        client = ChatClient(model, api_key)
        try:
            yield client
        finally:
            client.close()
        return
    from mosso.checkpoint.models import find_model
    from mosso.cli.serving import LocalServer

    found = find_model(model)
    with (
        LocalServer(found, engine_settings(found.folder, engine)) as server,
        connected(server.url) as client,
    ):
        for note in server.notes if engine or notes else ():
            click.echo(note, err=True)
        yield client


def read_tools(path: Path) -> list[Any]:
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(tools, list):
        raise UsageError(f"{path} must hold a JSON list of tools")
    return tools


class Screen:
    """Writes the pieces of an answer, each kind in its style. Where there are no styles to tell them apart,
    only the answer itself goes to `console`, all else to stderr."""

    def __init__(self, console: Console, *, interactive: bool) -> None:
        self.console = console
        self.aside = console if console.is_terminal else Console(stderr=True, highlight=False)
        self.interactive = interactive
        if interactive:
            import readline  # noqa: F401 - line editing and history for every input() from here on
        self._style: str | None = None  # the style of the open line, None at a line's start

    def write(self, text: str, style: str) -> None:
        if not text:
            return
        if style != self._style:
            self._end_line()
        self._print(text, style, end="")
        self._style = style

    def line(self, text: str, style: str = "dim") -> None:
        self._end_line()
        self._print(text, style)

    def _print(self, text: str, style: str, end: str = "\n") -> None:
        place = self._place(style)
        shown = harmless(text) if place.is_terminal else text
        place.print(shown, style=style, end=end, markup=False, soft_wrap=True)

    def _place(self, style: str) -> Console:
        return self.console if style == "none" else self.aside

    def _end_line(self) -> None:
        if self._style is not None:
            self._place(self._style).print()
            self._style = None

    def end(self) -> None:
        """Leave the prompt's line, so that the shell's own starts a new one."""
        if self.interactive:
            self.console.print()

    def ask(self, prompt: str) -> str:
        """One line from the person; raises EOFError at the end of the input."""
        self._style = None
        if self.interactive:
            return self.console.input(Text(f"{harmless(prompt)} ", "bold"))
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


@dataclass(slots=True)
class Answer:
    """One answer as it grows."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, ToolCall] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    pieces: int = 0  # deltas that brought something
    finish: str | None = None
    started: float = 0.0
    first: float = 0.0  # 0: nothing has come
    ended: float = 0.0

    def add(self, delta: Delta) -> None:
        if delta.content or delta.reasoning or delta.calls:
            self.pieces += 1
            self.first = self.first or time.perf_counter()
        self.content += delta.content
        self.reasoning += delta.reasoning
        for index, piece in delta.calls:
            call = self.calls.setdefault(index, ToolCall())
            call.id += piece.id
            call.name += piece.name
            call.arguments += piece.arguments
        self.usage = delta.usage or self.usage
        self.finish = delta.finish or self.finish

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.calls:
            message["reasoning"] = self.reasoning
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.calls.values()
            ]
        return message

    def speed(self) -> str:
        """How many tokens, and how fast they came. What too few pieces came for to be timed is left out."""
        tokens = int(self.usage.get("completion_tokens", 0))
        seconds = self.ended - self.first
        timed = self.pieces >= MIN_PIECES and seconds > 0
        rate = f" · {(tokens - 1) / seconds:.0f} tokens/s" if timed else ""
        first = f" · first after {self.first - self.started:.2f} s" if self.first else ""
        cut = " · cut off at the limit of tokens" if self.finish == "length" else ""
        return f"{tokens} tokens{rate}{first}{cut}"


class Chat:
    """The loop: a line from the person, an answer, results of the tools that it calls."""

    def __init__(
        self,
        client: ChatClient,
        model: str,
        effort: str,
        system: str | None,
        options: dict[str, Any],
        screen: Screen,
        servers: McpTools | None = None,
    ) -> None:
        self.servers = servers
        self.client = client
        self.model = model
        self.effort = effort
        self.system = system
        self.options = options
        self.screen = screen
        self.history: list[dict[str, Any]] = []

    def run(self) -> None:
        if self.screen.interactive:
            self.screen.line(f"{self.model} at {self.client.url} · /help for the commands")
        while True:
            try:
                text = self.screen.ask(">").strip()
            except (EOFError, KeyboardInterrupt):
                self.screen.end()
                return
            if text == "/quit":
                return
            if text.startswith("/"):
                self.obey(text)
            elif text:
                self.turn(text)

    def obey(self, text: str) -> None:
        name, _, argument = text[1:].partition(" ")
        match name:
            case "effort":
                said = self.set_effort(argument.strip())
            case "system":
                said = self.set_system(argument.strip())
            case "new":
                said = self.forget()
            case "help":
                said = HELP
            case _:
                said = f"no command /{name}; /help lists them"
        self.screen.line(said)

    def set_effort(self, effort: str) -> str:
        if effort not in EFFORTS:
            return f"effort is one of {', '.join(EFFORTS)}"
        self.effort = effort
        return f"effort: {effort}"

    def set_system(self, text: str) -> str:
        self.system = text or None
        return self.forget()

    def forget(self) -> str:
        self.history.clear()
        return "a new conversation"

    def turn(self, text: str) -> None:
        """One exchange. If it fails or is stopped before an answer stands, the history is as it was."""
        mark = len(self.history)
        self.history.append({"role": "user", "content": text})
        try:
            while calls := self.answer():
                for call in calls:
                    self.history.append(
                        {"role": "tool", "tool_call_id": call.id, "content": self.result(call)}
                    )
        except UsageError as error:
            del self.history[mark:]
            if not self.screen.interactive:
                raise
            self.screen.line(f"mosso: {error.message}", "red")
        except (KeyboardInterrupt, EOFError):
            del self.history[mark:]
            self.screen.line("stopped; this exchange is forgotten")

    def result(self, call: ToolCall) -> str:
        """What a call gives: its MCP server's word, or the person's."""
        if self.servers is None or not self.servers.has(call.name):
            return self.screen.ask(f"result of {call.name}:")
        outcome = self.servers.call(call.name, call.arguments)
        shown = outcome.text if len(outcome.text) <= SHOWN_RESULT else outcome.text[:SHOWN_RESULT] + " …"
        self.screen.line(f"← {shown}", "red" if outcome.failed else "cyan")
        return outcome.text

    def answer(self) -> list[ToolCall]:
        """Streams one answer to the screen and returns the tool calls in it."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": messages + self.history,
            "reasoning_effort": self.effort,
            **self.options,
        }
        answer = Answer(started=time.perf_counter())
        for delta in self.client.stream(body):
            self.show(delta, answer)
            answer.add(delta)
        answer.ended = time.perf_counter()
        self.screen.line(answer.speed())
        self.history.append(answer.message())
        return list(answer.calls.values())

    def show(self, delta: Delta, answer: Answer) -> None:
        self.screen.write(delta.reasoning, "dim italic")
        self.screen.write(delta.content, "none")
        for index, piece in delta.calls:
            if index not in answer.calls:
                self.screen.line(f"→ {piece.name}", "cyan")
            self.screen.write(piece.arguments, "cyan")
