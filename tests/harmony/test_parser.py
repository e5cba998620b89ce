"""The parser on well-formed streams, on every malformation it mends, and on noise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mosso.harmony.conversation import Channel, Conversation, Message, Role
from mosso.harmony.events import (
    ContentDelta,
    MessageEnded,
    MessageEndReason,
    MessageStarted,
    ParsedMessage,
    ParserEvent,
    Repaired,
    RepairKind,
)
from mosso.harmony.parser import StreamParser, parse
from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer
from mosso.harmony.utf8 import Utf8Stream

Ids = Callable[[str], list[int]]


@pytest.fixture(scope="session")
def ids(tokenizer: Tokenizer) -> Ids:
    """Text → ids, where the names of control tokens become those tokens."""
    control = {name: getattr(tokenizer.control, name) for name in tokenizer.control.__slots__}
    named = {f"<|{name.rstrip('_')}|>": token for name, token in control.items()}

    def convert(text: str) -> list[int]:
        parts = re.split(r"(<\|\w+\|>)", text)
        return [i for part in parts for i in ([named[part]] if part in named else tokenizer.encode(part))]

    return convert


def run(
    tokenizer: Tokenizer, tokens: Iterable[int], role: str | None = "assistant"
) -> tuple[list[ParserEvent], StreamParser]:
    parser = StreamParser(tokenizer, role=role)
    events = [event for token in tokens for event in parser.feed(token)]
    return events + parser.finish(), parser


def raw_bytes(events: list[ParserEvent]) -> bytes:
    parts = []
    for event in events:
        if isinstance(event, MessageStarted):
            parts.append(event.header)
        elif isinstance(event, ContentDelta | Repaired):
            parts.append(event.raw)
    return b"".join(parts)


def assert_total(tokenizer: Tokenizer, tokens: list[int], role: str | None) -> None:
    """No byte lost, repairs counted, events in their order, text the decoding of its bytes."""
    events, parser = run(tokenizer, tokens, role)
    assert raw_bytes(events) == b"".join(map(tokenizer.token_bytes, tokens))
    counted = {kind: parser.repairs[kind] for kind in parser.repairs}
    seen = [event.kind for event in events if isinstance(event, Repaired)]
    assert counted == {kind: seen.count(kind) for kind in seen}
    is_open = False
    for event in events:
        if isinstance(event, MessageStarted):
            assert not is_open
            assert event.role != Role.ASSISTANT or event.channel in set(Channel)
            is_open = True
        elif isinstance(event, MessageEnded):
            assert is_open
            is_open = False
        elif isinstance(event, ContentDelta):
            assert is_open
            assert event.text == event.raw.decode("utf-8", "replace") != ""
    assert not is_open
    assert parser.finish() == []


# --- noise --------------------------------------------------------------------------------------------------

SCRAPS = ["assistant", "user", "system", "developer", "functions.find", "to=", "to=functions.find"]
SCRAPS += ["to=assistant", "analysis", "final", "commentary", "comment", "ary", "json", "code"]
SCRAPS += ["assistantcommentary", '{"a":1}', "Hello,world", "é", "🙂", "??", "<|channel|>"]
CONTROL_NAMES = ["startoftext", "endoftext", "return", "constrain", "channel", "start", "end", "message"]
CONTROL_NAMES += ["call"]


@st.composite
def noise(draw: st.DrawFn) -> list[Any]:
    """Control names, scraps of headers, single ids of every kind."""
    scrap = st.builds(
        lambda text, space: space + text, st.sampled_from(SCRAPS), st.sampled_from(["", " ", "\n"])
    )
    control = st.sampled_from(CONTROL_NAMES).map(lambda name: (name,))
    odd = st.sampled_from([-1, 10**9, 200000, 200018, 201000])
    part = st.one_of(scrap, control, control, st.integers(0, 199_997), st.integers(0, 255), odd)
    return draw(st.lists(part, max_size=25))


def to_ids(tokenizer: Tokenizer, parts: list[Any]) -> list[int]:
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, tuple):
            tokens.append(getattr(tokenizer.control, "return_" if part[0] == "return" else part[0]))
        else:
            tokens.extend([part] if isinstance(part, int) else tokenizer.encode(part))
    return tokens


@given(parts=noise(), role=st.sampled_from(["assistant", None]))
@settings(max_examples=600, deadline=None)
def test_noise_is_parsed_without_loss(tokenizer: Tokenizer, parts: list[Any], role: str | None) -> None:
    assert_total(tokenizer, to_ids(tokenizer, parts), role)


TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["🙂👨‍👩‍👧", '{"a": [1, "é"]}', "a <|end|> b", "{", "漢字"])
)
CONTENT = TEXTS.map(lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
RECIPIENTS = st.sampled_from([None, "functions.find", "functions.web-browsing", "browser.open", "python"])
TYPES = st.sampled_from([None, "json", "<|constrain|>json", "code"])


def assistant(channel: str, recipient: str | None, content_type: str | None, content: str) -> Message:
    """A message as the model may write it: a content type goes with a recipient."""
    content_type = content_type if recipient else None
    return Message(Role.ASSISTANT, content, None, channel, recipient, content_type)


MESSAGES = st.one_of(
    st.builds(assistant, st.sampled_from(list(Channel)), RECIPIENTS, TYPES, CONTENT),
    st.builds(assistant, st.sampled_from(list(Channel)), RECIPIENTS, TYPES, CONTENT),
    st.builds(Message, st.sampled_from([Role.USER, Role.SYSTEM, Role.DEVELOPER]), CONTENT),
    st.builds(Message, st.just(Role.USER), CONTENT, st.just("zoë")),
    st.builds(
        Message,
        st.just(Role.TOOL),
        CONTENT,
        st.sampled_from(["functions.find", "python", "browser.open"]),
        st.just("commentary"),
        st.just("assistant"),
    ),
)
CONVERSATIONS = st.lists(MESSAGES, min_size=1, max_size=5).map(lambda m: Conversation(tuple(m)))


def as_parsed(message: Message) -> ParsedMessage:
    assert isinstance(message.content, str)
    name = message.name if message.role is Role.TOOL else f"{message.role}:{message.name}"
    is_call = message.role is Role.ASSISTANT and message.recipient is not None
    return ParsedMessage(
        str(name) if message.name else message.role,
        message.channel,
        message.recipient,
        message.content_type,
        message.content,
        MessageEndReason.CALL if is_call else MessageEndReason.END,
    )


@given(conversation=CONVERSATIONS)
@settings(max_examples=200, deadline=None)
def test_what_was_rendered_is_parsed_back(
    tokenizer: Tokenizer, renderer: Renderer, conversation: Conversation
) -> None:
    tokens = renderer.render(conversation, keep_analysis=True)
    assert parse(tokenizer, tokens, role=None) == [as_parsed(m) for m in conversation.messages]
    _, parser = run(tokenizer, tokens, None)
    assert not parser.repairs


@given(conversation=CONVERSATIONS)
@settings(max_examples=150, deadline=None)
def test_messages_equal_the_official_parsers(
    tokenizer: Tokenizer, renderer: Renderer, official: Any, conversation: Conversation
) -> None:
    nameless = Conversation(tuple(m for m in conversation.messages if m.name != "zoë"))  # it refuses names
    tokens = renderer.render(nameless, keep_analysis=True)
    theirs = official.parse_messages_from_completion_tokens(tokens, role=None)
    ours = parse(tokenizer, tokens, role=None)
    assert [(m.role, m.channel, m.recipient, m.content_type, m.text) for m in ours] == [
        (m.author.name or m.author.role.value, m.channel, m.recipient, m.content_type, m.content[0].text)
        for m in theirs
    ]


@given(conversation=CONVERSATIONS, data=st.data(), role=st.sampled_from(["assistant", None]))
@settings(max_examples=300, deadline=None)
def test_mutated_streams_are_parsed_without_loss(
    tokenizer: Tokenizer,
    renderer: Renderer,
    conversation: Conversation,
    data: st.DataObject,
    role: str | None,
) -> None:
    tokens = renderer.render_for_training(conversation)
    other = st.one_of(st.sampled_from(tokens or [0]), st.integers(199_998, 200_018), st.integers(-5, 210_000))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tokens)))
        change = data.draw(st.sampled_from(["delete", "insert", "replace", "swap", "cut"]))
        if change == "delete":
            del tokens[at : at + 1]
        elif change == "insert":
            tokens.insert(at, data.draw(other))
        elif change == "replace":
            tokens[at : at + 1] = [data.draw(other)]
        elif change == "swap":
            tokens[at : at + 2] = tokens[at : at + 2][::-1]
        else:
            del tokens[at:]
    assert_total(tokenizer, tokens, role)


@given(
    chunks=st.lists(
        st.one_of(st.binary(max_size=3), st.text(max_size=2).map(lambda t: t.encode("utf-8", "replace")))
    )
)
@example(chunks=["é".encode()[:1], b"", "é".encode()[1:]])
@example(chunks=[b"a\xf0\x9f", b"\x99", b"b"])
def test_text_does_not_depend_on_the_split(chunks: list[bytes]) -> None:
    stream = Utf8Stream()
    pieces = [*(stream.feed(chunk) for chunk in chunks), stream.flush()]
    whole = b"".join(chunks)
    assert "".join(text for text, _ in pieces) == whole.decode("utf-8", "replace")
    assert b"".join(raw for _, raw in pieces) == whole
    assert all(text == raw.decode("utf-8", "replace") for text, raw in pieces)
    assert stream.flush() == ("", b"")


def test_a_split_character_is_held_until_it_is_whole(tokenizer: Tokenizer, ids: Ids) -> None:
    single = {tokenizer.token_bytes(i): i for i in range(256)}
    parser = StreamParser(tokenizer)
    for token in ids("<|channel|>final<|message|>"):
        parser.feed(token)
    first, second = "é".encode()
    assert parser.feed(single[bytes([first])]) == []
    assert parser.feed(single[bytes([second])]) == [ContentDelta("é", "é".encode())]
    assert parser.feed(single[bytes([first])]) == []
    assert parser.feed(tokenizer.control.end) == [
        ContentDelta("\ufffd", bytes([first])),
        MessageEnded(MessageEndReason.END),
    ]


# --- events of a well-formed stream -------------------------------------------------------------------------


def test_events_come_as_soon_as_they_are_certain(tokenizer: Tokenizer, ids: Ids) -> None:
    parser = StreamParser(tokenizer)
    header = ids("<|channel|>commentary to=functions.find <|constrain|>json")
    assert [parser.feed(token) for token in header] == [[]] * len(header)
    assert parser.feed(tokenizer.control.message) == [
        MessageStarted(
            Role.ASSISTANT,
            Channel.COMMENTARY,
            "functions.find",
            "<|constrain|>json",
            b"commentary to=functions.find json",
        )
    ]
    assert parser.feed(*ids("{")) == [ContentDelta("{", b"{")]
    assert parser.feed(tokenizer.control.call) == [MessageEnded(MessageEndReason.CALL)]
    assert parser.finish() == []
    assert not parser.repairs


@pytest.mark.parametrize(
    "header",
    [
        " to=functions.find<|channel|>commentary <|constrain|>json",
        " to=functions.find<|channel|>commentary<|constrain|>json",
        "<|channel|>commentary to=functions.find <|constrain|>json",
        "<|channel|>commentary to=functions.find<|constrain|>json",
        "<|channel|>commentary to=functions.find <|constrain|> json",
        "assistant to=functions.find<|channel|>commentary<|constrain|>json",
    ],
)
def test_the_ways_to_write_a_call(tokenizer: Tokenizer, ids: Ids, header: str) -> None:
    (message,) = parse(tokenizer, ids(f"{header}<|message|>{{}}<|call|>"))
    assert message == ParsedMessage(
        Role.ASSISTANT,
        Channel.COMMENTARY,
        "functions.find",
        "<|constrain|>json",
        "{}",
        MessageEndReason.CALL,
    )


# --- every repair -------------------------------------------------------------------------------------------

FINAL = "<|start|>assistant<|channel|>final<|message|>Done.<|return|>"
# What must come out: channel/recipient/content type/text/end, with - for None.
DONE = "final/-/-/Done./return"
CALL = "commentary/functions.x/json/{}/call"
THOUGHT = "analysis/-/-/hm/end"
HM = "commentary/-/-/hm/end"
REPAIRS: list[tuple[str, str, list[str]]] = [
    # between messages
    (
        "<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>Done.<|return|>",
        "missing_start",
        [THOUGHT, DONE],
    ),
    (
        "<|channel|>analysis<|message|>hm<|end|>assistant<|channel|>final<|message|>Done.<|return|>",
        "missing_start",
        [THOUGHT, DONE],
    ),
    (
        "<|channel|>analysis<|message|>hm<|call|>commentary to=functions.x json<|message|>{}<|call|>",
        "missing_start unmarked_channel",
        ["analysis/-/-/hm/call", CALL],
    ),
    (
        "<|channel|>analysis<|message|>hm<|end|><|constrain|>json<|message|>{}<|return|>",
        "missing_start missing_channel",
        [THOUGHT, "final/-/<|constrain|>json/{}/return"],
    ),
    (
        "<|channel|>analysis<|message|>hm<|end|><|message|>Done.<|return|>",
        "missing_start missing_channel",
        [THOUGHT, DONE],
    ),
    ("<|channel|>analysis<|message|>hm" + FINAL, "missing_end", ["analysis/-/-/hm/cut", DONE]),
    (
        "<|channel|>analysis<|message|>hm<|channel|>final<|message|>Done.<|return|>",
        "missing_end",
        ["analysis/-/-/hm/cut", DONE],
    ),
    ("<|channel|>final<|message|>Done.<|return|><|return|>", "repeated_end", [DONE]),
    ("<|channel|>final<|message|>Done.<|end|><|return|>", "repeated_end", ["final/-/-/Done./end"]),
    ("<|channel|>final<|message|>Done.<|endoftext|>", "end_of_text", ["final/-/-/Done./cut"]),
    # no header, or no end of it
    ("Done.<|return|>", "missing_header", [DONE]),
    ("Done.", "missing_header", ["final/-/-/Done./cut"]),
    ('{"a": 1}<|return|>', "missing_header", ['final/-/-/{"a": 1}/return']),
    ("<|channel|>analysis<|message|>hm<|end|>Done.<|return|>", "missing_header", [THOUGHT, DONE]),
    (
        "commentary on the commentary<|return|>",
        "missing_header",
        ["final/-/-/commentary on the commentary/return"],
    ),
    ("<|channel|>analysis We think<|end|>" + FINAL, "missing_message", ["analysis/-/-/We think/end", DONE]),
    ("<|channel|>analysisWe think<|end|>" + FINAL, "missing_message", ["analysis/-/-/We think/end", DONE]),
    ("<|channel|>commentary to=functions.x json{}<|call|>", "missing_message", [CALL]),
    (
        "<|channel|>commentary to=functions.x <|constrain|>json{}<|call|>",
        "missing_message",
        ["commentary/functions.x/<|constrain|>json/{}/call"],
    ),
    ("commentary to= functions.x json {}<|call|>", "missing_message unmarked_channel bad_recipient", [CALL]),
    ("<|channel|>commentary to=functions.x<|call|>", "missing_message", ["commentary/functions.x/-/-/call"]),
    ("<|channel|>Let me<|end|>", "missing_message unknown_channel", ["final/-/-/Let me/end"]),
    ("<|channel|>commentary?? {}<|end|>", "missing_message", ["commentary/-/-/{}/end"]),
    ("assistant<|channel|>final Done.<|return|>", "missing_message", [DONE]),
    ("<|end|><|start|>assistant Done.<|return|>", "missing_message empty_message missing_channel", [DONE]),
    (
        "<|end|><|start|>functions.x to=assistant {}<|end|>",
        "missing_message empty_message",
        ["-/assistant/-/{}/end"],
    ),
    (
        "<|channel|>commentary <|constrain|>write: it.<|end|>",
        "missing_message bad_constraint",
        ["commentary/-/-/write: it./end"],
    ),
    ("<|return|>", "empty_message", []),
    ("<|channel|>final<|end|>", "empty_message", []),
    (FINAL, "empty_message", [DONE]),
    ("<|channel|>final<|message|>Done.<|return|>\n" + FINAL, "empty_message", [DONE, DONE]),
    ("<|channel|>comment", "cut_header", []),
    ("<|channel|>final<|message|>Done.<|return|><|start|>", "cut_header", [DONE]),
    # parts of headers
    (
        "<|end|><|start|>asistant<|channel|>final<|message|>Done.<|return|>",
        "empty_message unknown_role",
        [DONE],
    ),
    ("<|end|><|start|><|channel|>final<|message|>Done.<|return|>", "empty_message unknown_role", [DONE]),
    (
        "<|end|><|start|> to=functions.x<|channel|>commentary json<|message|>{}<|call|>",
        "empty_message unknown_role",
        [CALL],
    ),
    (
        "<|end|><|start|>bash<|message|>ls<|end|>",
        "empty_message unknown_role missing_channel",
        ["final/-/-/ls/end"],
    ),
    ("<|message|>Done.<|return|>", "missing_channel", [DONE]),
    (" to=functions.x json<|message|>{}<|call|>", "missing_channel", [CALL]),
    ("assistantcommentary to=functions.x json<|message|>{}<|call|>", "unmarked_channel", [CALL]),
    ("<|end|><|start|>assistantfinal<|message|>Done.<|return|>", "empty_message unmarked_channel", [DONE]),
    ("<|channel|>final?<|message|>Done.<|return|>", "unknown_channel", [DONE]),
    ("<|channel|>Analysis<|message|>hm<|end|>", "unknown_channel", [THOUGHT]),
    ("<|channel|>??<|message|>Done.<|return|>", "unknown_channel", [DONE]),
    ("<|channel|> to=functions.x json<|message|>{}<|call|>", "unknown_channel", [CALL]),
    ("<|channel|>––commentary to=functions.x json<|message|>{}<|call|>", "unknown_channel", [CALL]),
    ("<|channel|>analysis<|channel|>final<|message|>Done.<|return|>", "repeated_channel", [DONE]),
    (
        "<|channel|>commentary to=assistant<|channel|>commentary<|message|>hm<|end|>",
        "repeated_channel bad_recipient",
        [HM],
    ),
    ("<|channel|>commentary functions.x json<|message|>{}<|call|>", "unmarked_recipient", [CALL]),
    ("<|channel|>commentary to=functions.x? json<|message|>{}<|call|>", "bad_recipient", [CALL]),
    ("<|channel|>commentary to=functions.x: json<|message|>{}<|call|>", "bad_recipient", [CALL]),
    ("<|channel|>commentary to= json<|message|>hm<|end|>", "bad_recipient", ["commentary/-/json/hm/end"]),
    ("<|channel|>commentary to=<|message|>hm<|end|>", "bad_recipient", [HM]),
    (
        " to=functions.y<|channel|>commentary to=functions.x json<|message|>{}<|call|>",
        "repeated_recipient",
        [CALL],
    ),
    ("<|channel|>final <|constrain|><|message|>Done.<|return|>", "bad_constraint", [DONE]),
    ("<|channel|>commentary<|constrain|>to=functions.x json<|message|>{}<|call|>", "bad_constraint", [CALL]),
    (
        "<|channel|>final <|constrain|>json<|constrain|>yaml<|message|>Done.<|return|>",
        "bad_constraint",
        ["final/-/<|constrain|>yaml/Done./return"],
    ),
    ("<|channel|>commentary Let me see<|message|>hm<|end|>", "extra_header_text", [HM]),
    # tokens
    (
        "<|channel|>final<|message|>Do<|message|>ne<|constrain|>.<|startoftext|><|return|>",
        "stray_control",
        [DONE],
    ),
    ("<|channel|>final<|startoftext|><|message|>Done.<|return|>", "stray_control", [DONE]),
]


@pytest.mark.parametrize(
    ("stream", "kinds", "expected"), REPAIRS, ids=[stream[:70] for stream, _, _ in REPAIRS]
)
def test_malformations_are_mended_and_counted(
    tokenizer: Tokenizer,
    ids: Ids,
    stream: str,
    kinds: str,
    expected: list[str],
) -> None:
    tokens = ids(stream)
    parts = [(m.channel, m.recipient, m.content_type, m.text, m.reason) for m in parse(tokenizer, tokens)]
    _, parser = run(tokenizer, tokens)
    assert ["/".join(part or "-" for part in message) for message in parts] == expected
    assert sorted(parser.repairs) == sorted(kinds.split())
    assert_total(tokenizer, tokens, "assistant")


def test_every_repair_has_a_case() -> None:
    covered = {kind for _, kinds, _ in REPAIRS for kind in kinds.split()} | {RepairKind.UNKNOWN_TOKEN}
    assert covered == set(RepairKind)


def test_ids_without_a_token_are_skipped(tokenizer: Tokenizer, ids: Ids) -> None:
    tokens = ids("<|channel|>final<|message|>a")
    events, parser = run(tokenizer, [*tokens, -7, 201_000, 10**12, 200_000, *ids("b")])
    assert [event.text for event in events if isinstance(event, ContentDelta)] == ["a", "b"]
    assert parser.repairs == {RepairKind.UNKNOWN_TOKEN: 3, RepairKind.STRAY_CONTROL: 1}


def test_unannounced_content_streams_after_a_few_words(tokenizer: Tokenizer, ids: Ids) -> None:
    parser = StreamParser(tokenizer)
    events = [
        event for token in ids("one two three four five six seven eight nine") for event in parser.feed(token)
    ]
    assert events[-1] == ContentDelta("one two three four five six seven eight nine", events[-1].raw)
    assert parser.feed(*ids(" ten")) == [ContentDelta(" ten", b" ten")]


def test_a_long_word_is_no_header(tokenizer: Tokenizer, ids: Ids) -> None:
    events, _ = run(tokenizer, ids("ab" * 2000))
    assert isinstance(events[1], MessageStarted)
    assert len(events) > 100


def test_json_without_a_header_streams_at_once(tokenizer: Tokenizer, ids: Ids) -> None:
    parser = StreamParser(tokenizer)
    assert parser.feed(*ids("{")) == [
        Repaired(RepairKind.MISSING_HEADER),
        MessageStarted(Role.ASSISTANT, Channel.FINAL, None, None, b""),
        ContentDelta("{", b"{"),
    ]


def test_a_stream_may_start_anywhere(tokenizer: Tokenizer, ids: Ids) -> None:
    messages = parse(tokenizer, ids("<|start|>user:zoë<|message|>hi<|end|>" + FINAL), role=None)
    assert [(m.role, m.channel, m.text) for m in messages] == [
        ("user:zoë", None, "hi"),
        ("assistant", "final", "Done."),
    ]
    assert parse(tokenizer, [], role=None) == []


def test_a_tools_result_names_the_tool(tokenizer: Tokenizer, ids: Ids) -> None:
    for author in ("functions.x", "python"):
        text = f"<|start|>{author} to=assistant<|channel|>commentary<|message|>ok<|end|>"
        (message,) = parse(tokenizer, ids(text), role=None)
        assert (message.role, message.recipient, message.channel) == (author, "assistant", "commentary")
