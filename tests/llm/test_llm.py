"""LLM on the demo: real engine, real threads."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from pydantic import BaseModel

from mosso import LLM
from mosso.core.errors import CheckpointError, RequestError, UnavailableError, UsageError

SUM = "What is 17 + 25?"


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: sunny, 21 degrees"


def engine_pid(llm: LLM) -> int:
    return llm._runtime._close.peek()[2][2].pid


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # gone, now or while it is looked at
        return False


def test_an_answer_has_everything(llm):
    answer = llm.chat(SUM, temperature=0)
    assert "42" in answer.text
    assert str(answer) == answer.text
    assert answer.thinking
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens == answer.speed.tokens
    assert 0 < answer.speed.first_token_seconds < answer.speed.seconds
    assert answer.messages[0] == {"role": "user", "content": SUM}
    assert answer.messages[1]["content"] == answer.text


def test_a_conversation_goes_on(llm):
    first = llm.chat([{"role": "user", "content": "My name is Ada."}], temperature=0)
    second = llm.chat([*first.messages, {"role": "user", "content": SUM}], temperature=0)
    assert len(second.messages) == 4
    assert second.usage.prompt_tokens_details.cached_tokens > 0


def test_a_batch_keeps_its_order(llm, capfd):
    answers = llm.chat([f"What is {n} + {n}?" for n in range(1, 9)], temperature=0, progress=False)
    assert [str(2 * n) in answer.text for n, answer in enumerate(answers, 1)] == [True] * 8
    again = llm.chat([[{"role": "user", "content": "What is 3 + 3?"}]], temperature=0)
    assert again[0].text == answers[2].text
    assert llm.chat([[{"role": "user", "content": SUM}]], progress=True)
    assert capfd.readouterr().out == ""


def test_a_batch_shows_its_progress_in_a_terminal():
    """A bar, and nothing of it is left: the last thing erases its line."""
    code = "from mosso import LLM\nwith LLM('demo') as llm: llm.chat(['What is 2 + 3?'] * 3)"
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=os.environ | {"TERM": "xterm"}):
        os.close(theirs)
        drawn = b""
        with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # EIO is its end
            while piece := terminal.read(4096):
                drawn += piece
    assert b"generating" in drawn
    assert b"3/3" in drawn
    assert drawn.endswith(b"\x1b[2K")


def test_functions_are_run_and_their_results_read(llm):
    answer = llm.chat("What is the weather in Paris?", tools=[get_weather], temperature=0)
    (call,) = answer.calls
    assert (call.name, call.result) == ("get_weather", "Paris: sunny, 21 degrees")
    assert [message["role"] for message in answer.messages] == ["user", "assistant", "tool", "assistant"]
    assert answer.finish_reason == "stop"
    assert "sunny" in answer.text


def test_described_functions_are_the_callers_to_answer(llm):
    description: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    asked = llm.chat("What is the weather in Paris?", tools=[description], temperature=0)
    assert asked.finish_reason == "tool_calls"
    assert asked.calls[0].result is None
    result = {"role": "tool", "tool_call_id": asked.calls[0].id, "content": "rainy, 9 degrees"}
    assert "rainy" in llm.chat([*asked.messages, result], tools=[description], temperature=0).text


def test_rounds_are_bounded(llm):
    answer = llm.chat("What is the weather in Paris?", tools=[get_weather], temperature=0, max_rounds=1)
    assert answer.finish_reason == "tool_calls"
    assert answer.calls[0].result is None


class Person(BaseModel):
    name: str
    age: int


def test_answers_of_a_type(llm):
    answer = llm.chat("Extract the person: Ada is 36 years old.", output_type=Person, temperature=0)
    assert isinstance(answer.parsed, Person)
    assert Person.model_validate_json(answer.text) == answer.parsed
    assert llm.chat("Hi", output_type=list[int], max_tokens=1).parsed is None


def test_log_probabilities(llm):
    answer = llm.chat(SUM, temperature=0, logprobs=2)
    assert "".join(entry["token"] for entry in answer.logprobs) == answer.text
    assert all(len(entry["top_logprobs"]) == 2 for entry in answer.logprobs)


def test_a_stream_is_the_answer_in_pieces(llm):
    stream = llm.stream("What is the weather in Paris?", tools=[get_weather], temperature=0)
    pieces = list(stream)
    answer = stream.answer
    assert "".join(piece.text for piece in pieces if piece.kind == "text") == answer.text
    assert "".join(piece.text for piece in pieces if piece.kind == "call") == answer.calls[0].arguments
    assert [piece.text for piece in pieces if piece.kind == "result"] == [answer.calls[0].result]
    assert answer.text == llm.chat("What is the weather in Paris?", tools=[get_weather], temperature=0).text
    assert list(stream) == []


def test_a_stream_left_early_leaves_nothing_behind(llm):
    with llm.stream("Tell me about yourself.") as stream:
        next(stream)
    with pytest.raises(UsageError, match="has not ended"):
        _ = stream.answer
    assert wait_until(lambda: running(llm) == 0)


def running(llm: LLM) -> int:
    client = llm._runtime._close.peek()[2][2]
    stats = llm._runtime.run(client.stats())
    return stats.running + stats.waiting


def wait_until(holds: Any, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


async def test_the_async_twins(llm):
    answer, others = await asyncio.gather(
        llm.achat(SUM, temperature=0), llm.agenerate(["a", "b"], max_tokens=2)
    )
    assert "42" in answer.text
    assert len(others) == 2
    async with llm.astream(SUM, temperature=0) as stream:
        text = "".join([piece.text async for piece in stream if piece.kind == "text"])
    assert text == answer.text == stream.answer.text


async def test_cancelling_ends_the_models_work(llm):
    task = asyncio.create_task(llm.achat("Tell me about yourself."))
    stream = llm.astream("Tell me about yourself.")
    await anext(stream)
    task.cancel()
    await stream.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_until, lambda: running(llm) == 0)


def test_a_function_may_use_the_llm_itself(llm):
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return llm.chat(f"What is {a} + {b}?", temperature=0).text

    def get_weather(city: str) -> str:
        """The weather in a city."""
        return add(20, 1)

    assert llm.chat("What is the weather in Paris?", tools=[get_weather], temperature=0).calls[0].result


def test_a_coroutine_that_would_wait_for_itself_is_told_so(llm):
    """Tools that are coroutines run on the engine's loop: whoever waits there for it waits for himself."""

    async def get_weather(city: str) -> str:
        """The weather in a city."""
        return llm.chat(SUM).text

    async def get_forecast(city: str) -> str:
        """The weather in a city."""
        return str(list(llm.stream(SUM)))

    async def get_good_weather(city: str) -> str:
        """The weather in a city."""
        return str(await llm.achat(SUM, temperature=0))

    ask = "What is the weather in Paris?"
    for tool in (get_weather, get_forecast):
        assert "begin with `a`" in str(llm.chat(ask, tools=[tool], temperature=0).calls[0].result)
    answer = llm.chat(ask, tools=[get_good_weather], temperature=0)
    assert "42" in str(answer.calls[0].result)


def test_a_stream_that_another_thread_closes_just_ends(llm):
    stream = llm.stream("Tell me about yourself.")
    next(stream)
    closer = threading.Thread(target=stream.close)
    with ThreadPoolExecutor(1) as reader:
        rest = reader.submit(list, stream)
        closer.start()
        rest.result(timeout=120)
    closer.join()


def test_a_fork_is_told_to_make_its_own_and_leaves_the_parents_alone():
    script = """
import os
from mosso import LLM
from mosso.core.errors import UnavailableError
llm = LLM("demo", threads=1)
child = os.fork()
if not child:
    try:
        llm.chat("What is 17 + 25?")
    except UnavailableError as error:
        print(error, flush=True)
    os._exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, llm.chat("What is 17 + 25?", temperature=0), flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250)
    assert ran.stderr == ""
    told, answered = ran.stdout.splitlines()
    assert "make one after the fork" in told
    assert answered.startswith("7 ")
    assert "42" in answered


def test_raw_text(llm):
    one = llm.generate("Hello", max_tokens=5, temperature=0)
    assert one.usage.completion_tokens == one.speed.tokens == 5
    assert one.finish_reason == "length"
    assert str(one) == one.text
    two = llm.generate(["Hello", "Hello"], max_tokens=5, temperature=0, progress=False)
    assert [each.text for each in two] == [one.text, one.text]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"temperature": 5}, RequestError, "temperature"),
        ({"colour": 1}, RequestError, "colour"),
        ({"n": 2}, UsageError, "n cannot be an option"),
        ({"max_rounds": 0}, UsageError, "max_rounds"),
        ({"tools": [len, len]}, UsageError, "len"),
        ({"tools": len}, UsageError, "tools: give a list"),
        ({"user": object()}, UsageError, "cannot be written as JSON"),
        ({"stop": "\udcff"}, UsageError, "cannot be written as JSON"),
        ({"output_type": Person, "response_format": {"type": "text"}}, UsageError, "mean the same"),
    ],
)
def test_wrong_options_are_named(llm, options, error, says):
    with pytest.raises(error, match=says):
        llm.chat("Hi", **options)
    with pytest.raises(error, match=says):
        list(llm.stream("Hi", **options))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_rows": 0}, "^max_rows must be at least 1; it is 0$"),
        ({"max_rows": 1.5}, r"^max_rows is of type int \| None; it cannot be 1.5$"),
        ({"max_rows": True}, "^max_rows is of type .* it cannot be True$"),
        ({"gpu_memory": "16GiB"}, "^gpu_memory is of type float; it cannot be '16GiB'$"),
        ({"device": 3}, "^device is of type str; it cannot be 3$"),
        ({"preset": "fast"}, "^preset must be one of latency, balanced, throughput; it is fast$"),
        ({"max_context": 10_000_000}, "^kv_memory .* with max_rows 64, but max_context asks for 10000000$"),
    ],
)
def test_wrong_settings_are_named_as_arguments(settings, says):
    """Those that are refused here, and those that the engine refuses."""
    with pytest.raises(UsageError, match=says):
        LLM("demo", **settings)


@pytest.mark.parametrize("messages", [[], [{}], 3, [3], [[]]])
def test_wrong_messages_are_named(llm, messages):
    with pytest.raises((UsageError, RequestError), match="messages"):
        llm.chat(messages)


@pytest.mark.parametrize("prompts", [None, 3, "\udcff"])
def test_wrong_prompts_are_named(llm, prompts):
    with pytest.raises(UsageError):
        llm.generate(prompts)


@pytest.mark.filterwarnings("error")
def test_a_stream_of_one_that_is_closed_is_refused():
    llm = LLM("demo", threads=1)
    llm.close()
    with pytest.raises(UnavailableError, match="closed"):
        llm.stream("Hi")
    gc.collect()  # what is left of the stream says nothing


def test_a_batch_ends_with_its_first_error(llm):
    with pytest.raises(RequestError, match="role"):
        llm.chat([[{"role": "user", "content": "Hi"}], [{"role": "nobody", "content": "Hi"}]])
    assert wait_until(lambda: running(llm) == 0)


def test_many_threads(llm):
    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda n: llm.chat(f"What is {n} + 1?", temperature=0).text, range(16)))
    assert [str(n + 1) in text for n, text in enumerate(texts)] == [True] * 16


def test_a_notebook_shows_text_and_runs_nothing(llm):
    answer = llm.chat(SUM, temperature=0)
    shown = answer._repr_html_()
    assert "<details><summary>Thinking</summary>" in shown
    assert "tokens/s" in shown
    hostile = type(answer)(
        "<script>alert(1)</script><img src=x onerror=alert(1)>", "</div><b>", answer.calls, "stop",
        answer.usage, answer.speed, [],
    )  # fmt: skip
    assert not re.search(r"<(script|img|b)\b", hostile._repr_html_())
    assert "<script" not in llm.generate("<script>", max_tokens=3)._repr_html_()


def test_closing_ends_the_engine_and_whatever_runs():
    llm = LLM("demo", threads=1)
    pid = engine_pid(llm)
    failed: list[BaseException] = []
    stream = llm.stream("Tell me about yourself.")
    next(stream)

    def read() -> None:
        try:
            for _ in stream:
                pass
        except UnavailableError as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    llm.close()
    llm.close()
    reader.join(60)
    assert failed or stream._over
    assert not is_alive(pid)
    assert repr(llm) == "LLM('demo', closed)"
    with pytest.raises(UnavailableError, match="closed"):
        llm.chat("Hi")


def test_one_that_nobody_holds_ends():
    llm = LLM("demo", threads=1)
    pid = engine_pid(llm)
    del llm
    gc.collect()
    assert wait_until(lambda: not is_alive(pid))


SCRIPT = """
import sys
from mosso import LLM
llm = LLM("demo", threads=1)
print(llm._runtime._close.peek()[2][2].pid, flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("then", "status"),
    [("llm.chat('Hi')", 0), ("sys.exit(3)", 3), ("next(llm.stream('Hi')); sys.exit(4)", 4)],
)
def test_a_script_that_just_ends_leaves_nothing_behind(then, status):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(then=then)],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, "")
    assert wait_until(lambda: not is_alive(int(done.stdout)))


def test_ctrl_c_ends_the_call_and_not_the_llm():
    then = """
import signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
def tell():
    stats = llm._runtime._close.peek()[2][2].stats
    while not llm._runtime.run(stats()).running:
        time.sleep(0.01)
    print("running", flush=True)
threading.Thread(target=tell, daemon=True).start()
try:
    llm.chat(["Tell me about yourself. " * 50] * 64, max_tokens=2000, min_tokens=2000)
except KeyboardInterrupt:
    print("interrupted", llm.chat("Hi", temperature=0).text, flush=True)
"""
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(then=then)], stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert script.stdout is not None
    pid = int(script.stdout.readline())
    assert script.stdout.readline() == "running\n"
    os.kill(script.pid, signal.SIGINT)
    out, _ = script.communicate(timeout=200)
    assert out.startswith("interrupted H")
    assert script.returncode == 0
    assert wait_until(lambda: not is_alive(pid))


def test_ctrl_c_while_the_call_is_handed_over(llm, monkeypatch):
    """Nobody knows yet what to cancel, and still nothing goes on."""
    begin, left = asyncio.run_coroutine_threadsafe, asyncio.Event()

    async def work():
        try:
            await asyncio.sleep(240)
        finally:
            left.set()

    def interrupted(work, loop):
        begun = begin(work, loop)
        monkeypatch.undo()
        begin(asyncio.sleep(0), loop).result()  # so that it runs
        raise KeyboardInterrupt(begun)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm._runtime.run(work())
    llm._runtime.run(asyncio.wait_for(left.wait(), 60))


def test_what_kept_it_from_starting_is_raised(tmp_path):
    with pytest.raises(UsageError, match="no model"):
        LLM("nothing")
    with pytest.raises(CheckpointError):
        LLM(tmp_path)
    with pytest.raises(UsageError, match="no setting 'gpu'"):
        LLM("demo", gpu=True)
