"""The model's own python in /v1/responses: golden tokens, events, history, and the real sandbox behind it."""

import openai
import pytest
from mosso_fakes import harmony, small_tokenizer
from needs import missing
from tool_serving import served_with

from mosso.api.responses_toolset import Tools
from mosso.core.errors import UsageError
from mosso.harmony.conversation import ToolNamespace
from mosso.tools.python_tool import PythonTool
from mosso.tools.sandbox import Sandbox, SandboxLimits
from mosso.tools.tool import Outcome

TOKENIZER = small_tokenizer()
TOOL = {"type": "code_interpreter", "container": {"type": "auto"}}
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
CALL = "<|channel|>analysis to=python code<|message|>{}<|call|>"
RESULT = "<|start|>python to=assistant<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>{}<|return|>"


class Echo:
    """A python that says what it was given."""

    namespace = ToolNamespace("python", "Runs code.")

    def __init__(self):
        self.closed = 0

    def open(self):
        return self

    async def run(self, recipient, text):
        return Outcome(f"ran {text}")

    async def close(self):
        self.closed += 1


def once(code, header=CALL):
    """Thinks, runs `code`, and says what came of it."""

    def script(request):
        prompt = TOKENIZER.decode(request.prompt, control=True)
        if " to=assistant<|channel|>" not in prompt.rpartition("<|start|>user")[2]:
            return harmony(TOKENIZER, THINK + header.format(code))
        said = prompt.rpartition("<|message|>")[2].removesuffix("<|end|><|start|>assistant")
        return harmony(TOKENIZER, FINAL.format(said))

    return script


async def test_a_streamed_call():
    echo = Echo()
    async with served_with(once("1 + 1"), Tools(python=echo)) as server:
        async with server.client.responses.stream(model="test", input="hi", tools=[TOOL]) as stream:
            events = [event async for event in stream]
            answer = await stream.get_final_response()
        assert [item.type for item in answer.output] == ["reasoning", "code_interpreter_call", "message"]
        call = answer.output[1]
        assert (call.code, call.status) == ("1 + 1", "completed")
        assert call.outputs[0].logs == "ran 1 + 1"
        assert call.container_id.startswith("cntr_")
        assert answer.output_text == "ran 1 + 1"
        of_call = [event for event in events if getattr(event, "item_id", None) == call.id]
        kinds = [event.type.removeprefix("response.code_interpreter_call") for event in of_call]
        assert [kind for kind in kinds if kind != "_code.delta"] == [
            ".in_progress",
            "_code.done",
            ".interpreting",
            ".completed",
        ]
        assert "".join(event.delta for event in of_call if event.type.endswith("delta")) == "1 + 1"
        first, second = [request.prompt for request in server.source.seen]
        turn = harmony(TOKENIZER, THINK + CALL.format("1 + 1") + RESULT.format("ran 1 + 1"))
        assert second == first + turn
        assert "# Tools\n\n## python\n\nRuns code.\n" in TOKENIZER.decode(first, control=True)
        again = await server.client.responses.create(
            model="test", input="more", tools=[TOOL], previous_response_id=answer.id
        )
        assert again.status == "completed"
        history = TOKENIZER.decode(server.source.seen[2].prompt, control=True)
        assert "to=python" not in history, "code before the last answer is thinking, and dropped with it"
        assert echo.closed == 2


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=python code<|message|>{}<|call|>",
        " to=python<|channel|>analysis<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.python <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>analysis to=python code<|message|>{}<|return|>",
    ],
)
async def test_other_ways_to_call_it(header):
    async with served_with(once("x", header), Tools(python=Echo())) as server:
        answer = await server.client.responses.create(model="test", input="hi", tools=[TOOL])
        assert answer.output_text == "ran x"


async def test_a_users_python_beside_it():
    """The client's function goes by another name, so that neither is taken for the other."""
    mine = {"type": "function", "name": "python", "parameters": None, "strict": False}

    def script(request):
        prompt = TOKENIZER.decode(request.prompt, control=True)
        if "<|start|>python to=assistant" not in prompt:
            return harmony(TOKENIZER, CALL.format("its own"))
        if "mine too" in prompt:
            return harmony(TOKENIZER, FINAL.format("both"))
        call = "<|channel|>commentary to=functions.user_python <|constrain|>json<|message|>{}<|call|>"
        return harmony(TOKENIZER, call)

    async with served_with(script, Tools(python=Echo())) as server:
        first = await server.client.responses.create(model="test", input="hi", tools=[mine, TOOL])
        assert [item.type for item in first.output] == ["code_interpreter_call", "function_call"]
        assert first.output[1].name == "python"
        result = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "mine too"}
        said = [{"role": "user", "content": "hi"}, *(i.model_dump(exclude_none=True) for i in first.output)]
        answer = await server.client.responses.create(model="test", input=[*said, result], tools=[mine, TOOL])
        assert answer.output_text == "both"
        turn = "<|start|>assistant to=python<|channel|>analysis code<|message|>its own<|call|>"
        turn += RESULT.format("ran its own")
        assert turn in TOKENIZER.decode(server.source.seen[-1].prompt, control=True)


async def test_a_forced_call_and_a_formed_answer():
    form = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}
    async with served_with(once("x"), Tools(python=Echo())) as server:
        await server.client.responses.create(
            model="test", input="hi", tools=[TOOL], tool_choice={"type": "code_interpreter"}, text=form
        )
        first, second = server.source.seen
        assert first.constraint.answer is None
        assert [call.recipient for call in first.constraint.calls] == ["python"]
        assert second.constraint.answer is not None
        assert [call.recipient for call in second.constraint.calls] == ["python"]


async def test_switched_off_and_mistakes():
    async with served_with(once("x"), Tools()) as server:
        with pytest.raises(openai.BadRequestError, match=r"tools\[0\].*--python-tool"):
            await server.client.responses.create(model="test", input="hi", tools=[TOOL])
    async with served_with(once("x"), Tools(python=Echo())) as server:
        for container in (
            "cntr_1",
            {"type": "auto", "file_ids": ["f"]},
            {"type": "auto", "memory_limit": "64g"},
        ):
            with pytest.raises(openai.BadRequestError, match="container"):
                await server.client.responses.create(
                    model="test", input="hi", tools=[{"type": "code_interpreter", "container": container}]
                )
        with pytest.raises(openai.BadRequestError, match=r"tools\[1\]"):
            await server.client.responses.create(model="test", input="hi", tools=[TOOL, TOOL])
        none = await server.client.responses.create(
            model="test", input="hi", tools=[TOOL], tool_choice="none"
        )
        assert "## python" not in TOKENIZER.decode(server.source.seen[-1].prompt, control=True)
        assert [item.type for item in none.output] == ["reasoning", "reasoning"]


async def test_with_the_real_sandbox():
    sandbox = Sandbox(SandboxLimits(seconds=120))
    try:
        await sandbox.check()
    except UsageError as error:
        missing(error.message)
    code = "import socket\ntry:\n    socket.socket()\nexcept OSError:\n    print('alone')\n6 * 7"
    async with served_with(once(code), Tools(python=PythonTool(sandbox))) as server:
        answer = await server.client.responses.create(model="test", input="hi", tools=[TOOL])
        assert answer.output_text == "alone\n42"
