"""`mosso check` on ourselves: all passes. On ourselves with one thing spoiled: it finds that thing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from http_fakes import spoiled

from mosso.check.examination import Outcome, Report, chosen, examine


def examined(url: str, *names: str) -> Report:
    return asyncio.run(examine(url, chosen(names)))


def test_every_case_passes_on_ourselves(demo):
    report = examined(demo.url)
    assert {
        result.name: result.why for result in report.results if result.outcome is not Outcome.PASSED
    } == {}


def swap(old: str, new: str, count: int = 0) -> Callable[[str], str]:
    return lambda text: re.sub(old, new, text, count=count)


THINKING_IN_CONTENT = swap(r'"content":("?)(.*?)"reasoning":"(.*?)"', r'"content":\1\3 \2"reasoning":"\3"')
SPOILERS = [
    (["stream.order"], swap(r"data: \[DONE\]\n\n", "")),
    (["stream.order"], swap(r'"role":"assistant",?', "")),
    (["stream.order"], swap(r'("finish_reason":)"stop"', r"\1null")),
    (["stream.usage"], swap(r'"total_tokens":\d+', '"total_tokens":1')),
    (["chat.usage"], swap(r'"total_tokens":\d+', '"total_tokens":1')),
    (["chat.finish", "chat.max_tokens"], swap('"finish_reason":"(stop|length)"', '"finish_reason":"done"')),
    (["chat.json_schema"], swap(r'\\"age\\"', r'\\"years\\"')),
    (["stream.same"], swap(r'("delta":{"content":")', r"\1x")),
    (["stream.unicode"], swap("日", "\ufffd")),
    (["tools.call"], swap('"id":"call_[^"]*"', '"id":""')),
    (["tools.call", "tools.stream"], swap(r'"arguments":"', '"arguments":"x')),
    (["tools.required", "tools.named"], swap("set_lamp", "set_lump")),
    (["tools.taken"], swap('"python"', '"user_python"')),
    (["errors.types", "errors.json"], swap('"message"', '"massage"')),
    (["responses.stream"], swap(r'"sequence_number":1\b', '"sequence_number":2')),
    (["responses.stream"], swap("response.completed", "response.done")),
    (["responses.stream"], swap(r'("delta":")', r"\1x")),
    (["responses.stream"], swap(r"event: response.output_item.added\ndata: .*\n\n", "", 1)),
    (["responses.call"], swap('"call_id":"[^"]*"', '"call_id":""')),
    (["anthropic.stream"], swap("event: content_block_stop\ndata: .*\n\n", "")),
    (["ollama.chat"], swap('"done":true', '"done":false')),
    (["harmony.reasoning"], lambda text: THINKING_IN_CONTENT(text)),
    (["harmony.clean"], swap(r'("content":")', r"\1<|channel|>final<|message|>")),
]


@pytest.mark.parametrize(("names", "spoil"), SPOILERS)
def test_what_is_spoiled_is_found(demo, names: list[str], spoil: Callable[[str], str]):
    with spoiled(demo.url, spoil) as url:
        report = examined(url, *names)
    assert {result.name for result in report.results if result.outcome is Outcome.FAILED} == set(names)
    assert all(result.why for result in report.results)


def test_a_front_that_spoils_nothing_is_no_fault(demo):
    with spoiled(demo.url, lambda text: text) as url:
        assert examined(url, "stream", "anthropic", "ollama").passed


@pytest.mark.parametrize(("counts", "outcome"), [((108, 100), Outcome.FAILED), ((100, 100), Outcome.SKIPPED)])
def test_control_tokens_that_count_as_one_are_found(demo, counts: tuple[int, ...], outcome: Outcome):
    told = iter(counts)
    count = re.compile(r'"prompt_tokens":\d+')
    with spoiled(demo.url, lambda text: count.sub(lambda _: f'"prompt_tokens":{next(told)}', text)) as url:
        (result,) = examined(url, "harmony.injection").results
    assert result.outcome is outcome
