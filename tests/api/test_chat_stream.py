"""One choice's state machine, fed with Harmony streams in every split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mosso_fakes import harmony, small_tokenizer

from mosso.api.chat_stream import ChatChoice, ChatOptions
from mosso.api.chat_wire import ChoiceFold
from mosso.api.deltas import CallArguments, CallStarted, ContentText, Finished, ReasoningText
from mosso.core.requests import FinishReason, TokenEvent, TokenLogprob

TOKENIZER = small_tokenizer()
THINK = "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"


def machine(**options):
    ids = iter(f"call_{number}" for number in range(100))
    thoughts, repairs = {}, []
    choice = ChatChoice(
        TOKENIZER,
        ChatOptions(**options),
        new_call_id=lambda: next(ids),
        on_call=thoughts.__setitem__,
        on_repair=lambda kind: repairs.append(str(kind)),
    )
    choice.told, choice.repairs = thoughts, repairs
    return choice


def events(tokens, finish=FinishReason.STOP, sizes=(), logprobs=False):
    tokens, made, sizes = list(tokens), [], iter(sizes)
    while tokens or not made:
        size = next(sizes, 1)
        piece, tokens = tuple(tokens[:size]), tokens[size:]
        entries = tuple(TokenLogprob(token, -1.0) for token in piece) if logprobs else ()
        made.append(TokenEvent("r", piece, entries, None if tokens else finish))
    return made


def run(text, finish=FinishReason.STOP, sizes=(), logprobs=False, **options):
    choice, deltas = machine(logprobs=logprobs, **options), []
    for event in events(harmony(TOKENIZER, text), finish, sizes, logprobs):
        deltas += choice.feed(event)
        if choice.done:
            break
    return choice, deltas


def whole(deltas):
    fold = ChoiceFold()
    for delta in deltas:
        fold.add(delta)
    made = fold.choice(0, TOKENIZER, "reasoning", None)
    return made["message"], made["finish_reason"]


def test_thinking_and_answer():
    choice, deltas = run(THINK + FINAL + "Héllo<|return|>")
    message, reason = whole(deltas)
    assert message == {
        "role": "assistant", "content": "Héllo", "refusal": None, "reasoning": "Let me think."
    }  # fmt: skip
    assert reason == choice.finish_reason == "stop"
    assert choice.counts.generated == len(harmony(TOKENIZER, THINK + FINAL + "Héllo<|return|>"))
    assert choice.counts.reasoning == len(TOKENIZER.encode("Let me think."))


def test_calls_come_as_they_are_made():
    _, deltas = run(THINK + CALL + '{"a"<|call|>', functions=True)
    assert deltas[-6:] == [
        CallStarted(0, "call_0", "f"),
        CallArguments(0, "{"),
        CallArguments(0, '"'),
        CallArguments(0, "a"),
        CallArguments(0, '"'),
        Finished("tool_calls"),
    ]


def test_parallel_calls_are_numbered():
    two = CALL + "{}<|end|><|start|>assistant" + CALL.replace(".f", ".g") + "[1]<|call|>"
    message, reason = whole(run(two, functions=True)[1])
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message["tool_calls"]
    ]
    assert calls == [("call_0", "f", "{}"), ("call_1", "g", "[1]")]
    assert reason == "tool_calls"
    assert message["content"] is None


def test_without_parallel_calls_the_first_one_ends_it():
    two = CALL + "{}<|end|><|start|>assistant" + CALL.replace(".f", ".g") + "[1]<|call|>"
    choice, deltas = run(two, functions=True, parallel=False)
    message, reason = whole(deltas)
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f"]
    assert reason == "tool_calls"
    assert choice.done


def test_a_call_without_arguments_gets_an_empty_object():
    for ending in ("<|call|>", " <|call|>"):
        message, _ = whole(run(CALL + ending, functions=True)[1])
        assert message["tool_calls"][0]["function"]["arguments"].strip() == "{}"
    message, reason = whole(run(CALL, FinishReason.LENGTH, functions=True)[1])
    assert message["tool_calls"][0]["function"]["arguments"] == ""
    assert reason == "length"


def test_a_call_that_nobody_offered_is_thinking():
    message, reason = whole(run(CALL + '{"a":1}<|call|>')[1])
    assert message["reasoning"] == '{"a":1}'
    assert "tool_calls" not in message
    assert reason == "stop"


def test_a_message_of_another_role_is_thinking():
    message, _ = whole(run(FINAL + "A<|end|><|start|>user<|message|>B<|return|>")[1])
    assert (message["content"], message["reasoning"]) == ("A", "B")


def test_preambles_are_content_apart_from_the_answer():
    text = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + FINAL + "Done.<|return|>"
    assert whole(run(text)[1])[0]["content"] == "I look.\n\nDone."


def test_thoughts_are_told_by_call():
    text = (
        THINK + "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + CALL + "{}<|end|>"
        "<|start|>assistant" + CALL + "{}<|call|>"
    )
    choice, _ = run(text, functions=True)
    assert [(t.channel, t.text) for t in choice.told["call_0"]] == [
        ("analysis", "Let me think."),
        ("commentary", "I look."),
    ]
    assert choice.told["call_1"] == ()


@given(st.lists(st.integers(1, 40), max_size=30))
def test_the_split_into_events_changes_nothing(sizes):
    text = THINK + FINAL + "One, two, STOP three<|return|>"
    for stops in ((), ("STOP", "thr")):
        once = whole(run(text, stops=stops)[1])
        assert whole(run(text, sizes=sizes, stops=stops)[1]) == once


def test_one_event_gives_one_delta_of_a_kind():
    _, deltas = run(
        THINK + FINAL + "One<|end|><|start|>assistant" + CALL + "{}<|call|>", sizes=[999], functions=True
    )
    assert [type(delta) for delta in deltas] == [
        ReasoningText, ContentText, CallStarted, CallArguments, Finished
    ]  # fmt: skip


def test_stop_strings_end_the_answer_and_not_the_thinking():
    choice, deltas = run(THINK + FINAL + "I do think. So<|return|>", stops=("think.",))
    message, reason = whole(deltas)
    assert (message["reasoning"], message["content"], reason) == ("Let me think.", "I do ", "stop")
    assert choice.done


def test_stop_strings_do_not_end_a_preamble():
    text = "<|channel|>commentary<|message|>I STOP.<|end|><|start|>assistant" + FINAL + "a STOP b<|return|>"
    assert whole(run(text, stops=("STOP",))[1])[0]["content"] == "I STOP.\n\na "


def test_text_held_back_for_a_stop_string_is_not_lost():
    for ending in ("<|return|>", ""):
        message, _ = whole(run(FINAL + "a STO" + ending, FinishReason.LENGTH, stops=("STOP",))[1])
        assert message["content"] == "a STO"


def test_a_users_stop_id_is_no_part_of_the_answer():
    token = TOKENIZER.encode("!")[0]
    choice, deltas = run(FINAL + "Hi!", user_stop_ids=frozenset({token}))
    assert whole(deltas) == ({"role": "assistant", "content": "Hi", "refusal": None}, "stop")
    assert choice.counts.generated == len(harmony(TOKENIZER, FINAL + "Hi!"))


def content_logprobs(deltas):
    return [entry.token for delta in deltas if isinstance(delta, ContentText) for entry in delta.logprobs]


@pytest.mark.parametrize("text", ["the answer", "é€ and 🎼", "half \xc3"])
def test_logprobs_cover_exactly_the_content(text):
    tokens = harmony(TOKENIZER, THINK + FINAL) + tuple(TOKENIZER.encode(text)) + (258,)
    if text.startswith("half"):
        tokens = (*tokens[:-2], 258)  # half a character at the end
    choice, deltas = machine(logprobs=True), []
    for event in events(tokens, logprobs=True):
        deltas += choice.feed(event)
    expected = list(tokens[len(harmony(TOKENIZER, THINK + FINAL)) : -1])
    assert content_logprobs(deltas) == expected


def test_logprobs_come_with_their_text_and_stop_where_it_stops():
    _, deltas = run(FINAL + "abSTOPcd<|return|>", stops=("STOP",), logprobs=True)
    assert content_logprobs(deltas) == [97, 98]
    _, deltas = run(FINAL + "abSTcd<|return|>", stops=("STOP",), logprobs=True)
    held = [(d.text, [e.token for e in d.logprobs]) for d in deltas if isinstance(d, ContentText)]
    assert held == [("a", [97]), ("b", [98]), ("STc", [83, 84, 99]), ("d", [100])]


def test_a_last_half_character_keeps_its_logprob():
    tokens = (*harmony(TOKENIZER, FINAL), 195)
    choice, deltas = machine(logprobs=True), []
    for event in events(tokens, FinishReason.LENGTH, logprobs=True):
        deltas += choice.feed(event)
    assert content_logprobs(deltas) == [0xC3]
    assert whole(deltas)[0]["content"] == "\ufffd"


def test_a_token_without_text_keeps_its_logprob():
    tokens = (*harmony(TOKENIZER, FINAL), 97, 300)
    choice, deltas = machine(logprobs=True), []
    for event in events(tokens, FinishReason.LENGTH, logprobs=True):
        deltas += choice.feed(event)
    assert content_logprobs(deltas) == [97, 300]


def test_a_cut_call_ends_once_when_only_one_is_wanted():
    _, deltas = run(CALL + "{", FinishReason.LENGTH, functions=True, parallel=False)
    assert deltas[-1] == Finished("length")


def test_a_stop_string_in_text_that_only_the_end_makes_content():
    _, deltas = run("plain stop text", FinishReason.LENGTH, stops=("stop",))
    assert whole(deltas)[1] == "stop"
    assert whole(deltas)[0]["content"] == "plain "


def test_repairs_are_told():
    choice, deltas = run("plain text without a header<|return|>")
    assert whole(deltas)[0]["content"] == "plain text without a header"
    assert choice.repairs


@settings(max_examples=150)
@given(st.lists(st.integers(0, 300), max_size=60), st.booleans(), st.booleans(), st.sampled_from(list("ab!")))
def test_any_tokens_give_an_answer_that_ends_once(tokens, functions, parallel, stop):
    choice, deltas = machine(functions=functions, parallel=parallel, stops=(stop,), logprobs=True), []
    for event in events(tokens, FinishReason.LENGTH, logprobs=True):
        deltas += choice.feed(event)
        if choice.done:
            break
    assert choice.done
    assert [type(delta) for delta in deltas].count(Finished) == 1
    assert isinstance(deltas[-1], Finished)
    whole(deltas)
