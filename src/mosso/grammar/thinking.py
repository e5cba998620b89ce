"""Where a turn is in its Harmony stream, and how its thinking is ended.

Thinking is the content of analysis messages. Once its budget is used up,

- a thought under way ends in `<|end|>`, at the end of a character: until then only bytes that complete it;
- the header behind that is a legal one of another channel, and so is every header that comes later;
- a final message is the last one. A model that did not think takes its answer for one of an earlier turn and
  ends it in `<|end|>`, as those are; it would go on for ever, so `<|return|>` follows;
- a thought whose header was under way is opened and closed without a word.

Tokens of thinking are counted as they come, so the state follows from the turn's tokens and its budget alone.
"""

from __future__ import annotations

import codecs
import ctypes
from enum import Enum, auto
from functools import cached_property

from llguidance import LLMatcher, LLTokenizer

from mosso.core.constraints import Mask
from mosso.core.errors import EngineError, RequestError

ENDLESS = 1 << 30  # the slack of what never needs a mask again
MAX_MESSAGE = 300  # characters of the library's explanation that a client is shown
MOST_WORDS, MOST_BYTES = 8, 1024  # of a header; what goes on is content that nobody announced
_SPEECH_SLACK = 2
"""From the content of another message it is two tokens to where a channel's name stands: `<|start|>` and what
follows it. (A stray `<|channel|>` in the content is one: the thought it may open is closed at once.)"""
_CONTINUATIONS = range(0x80, 0xC0)


class Control:
    """Harmony's control tokens, and some masks that need no grammar."""

    def __init__(self, vocabulary: LLTokenizer) -> None:
        self._vocabulary = vocabulary
        self.mask_bytes = -(-vocabulary.vocab_size // 32) * 4  # a bit a token, in words of 32
        self.start = self._id("start")
        self.end = self._id("end")
        self.channel = self._id("channel")
        self.message = self._id("message")
        self.return_ = self._id("return")
        self.ends = frozenset((self.end, self.return_, self._id("call")))
        self.structure = self.ends | {self.start, self.channel, self.message}
        self.opening = (self.start, *vocabulary.tokenize_str("assistant"))  # what the prompt ends in

    def _id(self, name: str) -> int:
        ids = self._vocabulary.tokenize_str(f"<|{name}|>", parse_special=True)
        if len(ids) != 1:
            raise RequestError(f"Thinking cannot be ended: the vocabulary has no token <|{name}|>.")
        return int(ids[0])

    def includes(self, token: int) -> bool:
        return bool(self._vocabulary.is_special_token(token))

    @cached_property
    def continuations(self) -> bytes:
        """The bytes that go on with a character, each as a token."""
        return self.only(*(self._vocabulary.tokenize_bytes(bytes([byte]))[0] for byte in _CONTINUATIONS))

    def only(self, *tokens: int) -> bytes:
        return sum(1 << token for token in set(tokens)).to_bytes(self.mask_bytes, "little")

    def without_analysis(self, mask: Mask) -> bytes:
        """Of a mask behind `<|channel|>`, the tokens that begin another channel's name."""
        bits = int.from_bytes(mask, "little")
        for token in _tokens(bits):
            if self.bytes_of(token).startswith(b"a"):
                bits &= ~(1 << token)
        return bits.to_bytes(len(mask), "little")

    def bytes_of(self, token: int) -> bytes:
        return bytes(self._vocabulary.decode_bytes([token]))


def _tokens(bits: int) -> list[int]:
    found = []
    while bits:
        found.append((bits & -bits).bit_length() - 1)
        bits &= bits - 1
    return found


def both(left: Mask, right: Mask) -> bytes:
    """The tokens of two masks."""
    bits = int.from_bytes(left, "little") & int.from_bytes(right, "little")
    return bits.to_bytes(len(left), "little")


class Place(Enum):
    """Where the next token stands."""

    BETWEEN = auto()  # messages
    HEADER = auto()
    THOUGHT = auto()  # content of an analysis message
    SPEECH = auto()  # content of another one


class Position:
    """Follows a turn, malformed ones too, as `harmony.parser` reads it."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.place = Place.HEADER  # the turn continues `<|start|>assistant`
        self.thought = 0  # tokens of thinking so far
        self.is_final = False  # the last content is, or was, the final message's
        self.header: list[int] = []  # its tokens so far; of the first one without what the prompt ends in
        self._text = b""  # of the header
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def in_character(self) -> bool:
        """Whether the thought's last character still lacks bytes."""
        return self.place is Place.THOUGHT and bool(self._utf8.getstate()[0])

    @property
    def names_analysis(self) -> bool:
        """Whether the header under way opens a thought, as far as it can be told."""
        text = self._text.lower()
        return self.place is Place.HEADER and b"analysis" in text and b"to=" not in text

    @property
    def at_channel(self) -> bool:
        """Whether a channel's name begins."""
        return self.place is Place.HEADER and self.header[-1:] == [self.control.channel]

    def consume(self, token: int) -> None:
        control = self.control
        if self.place is Place.SPEECH and token not in control.structure:
            return
        if token in control.ends:
            self.place = Place.BETWEEN
            self.is_final = self.is_final and token != control.return_  # whoever ignores it goes on
        elif token == control.start:
            self._open_header(token)
        elif token == control.message and self.place in (Place.HEADER, Place.BETWEEN):
            self._open_content()
        elif token == control.channel:
            if self.place is not Place.HEADER:
                self._open_header()
            self.header.append(token)
        elif not control.includes(token):
            self._text_token(token)
        elif self.place is Place.HEADER:
            self.header.append(token)

    def _open_header(self, *tokens: int) -> None:
        self.place = Place.HEADER
        self.header, self._text = list(tokens), b""

    def _open_content(self) -> None:
        self.is_final = b"final" in self._text
        self.place = Place.THOUGHT if self.names_analysis else Place.SPEECH
        self._utf8.reset()

    def _text_token(self, token: int) -> None:
        if self.place is Place.THOUGHT:
            self.thought += 1
            self._utf8.decode(self.control.bytes_of(token))
            return
        if self.place is Place.BETWEEN:
            self._open_header()
        if self.place is not Place.HEADER:
            return
        self.header.append(token)
        text = self.control.bytes_of(token)
        self._text += text
        if b"{" in text or len(self._text) > MOST_BYTES or len(self._text.split()) > MOST_WORDS:
            self._open_content()


def next_mask(matcher: LLMatcher, size: int) -> bytes:
    """The tokens that a matcher lets come next. Its own `compute_bitmask` makes the bytes one by one, which
    costs more than to find them."""
    mask = (ctypes.c_char * size)()
    matcher.unsafe_compute_mask_ptr(ctypes.addressof(mask), size)
    return mask.raw


class TurnForm:
    """The form of a turn, on its way: llguidance's matcher with its errors as ours."""

    def __init__(self, matcher: LLMatcher, mask_bytes: int) -> None:
        self.matcher = matcher
        self.mask_bytes = mask_bytes
        self.is_over = False

    def mask(self) -> bytes | None:
        """None when the turn is over."""
        if self.is_over:
            return None
        mask = next_mask(self.matcher, self.mask_bytes)
        self.check()
        return mask

    def consume(self, token: int) -> None:
        if self.is_over:
            return
        self.matcher.consume_token(token)
        self.consumed()

    def consumed(self) -> None:
        """The matcher has been given a token."""
        stopped = bool(self.matcher.is_stopped())
        if stopped:  # one in error too
            self.check()
        self.is_over = stopped

    def check(self) -> None:
        if self.matcher.is_error():
            raise EngineError(f"the constraint failed: {in_short(self.matcher.get_error())}")


class HarmonyTurn:
    """Implements core's TokenConstraint: thinking within a budget, in a turn of some form or in a free one.

    `after`: matches what a free turn goes on with once its thinking must end, from the thought's `<|end|>` to
    the next `<|message|>`. It is copied, never changed.
    """

    def __init__(self, control: Control, budget: int | None, form: TurnForm | None, after: LLMatcher) -> None:
        self.position = Position(control)
        self.form = form
        self._control = control
        self._budget = budget
        self._after = after

    def mask(self) -> Mask | None:
        return self.mask_within(None if self.form is None else self.form.mask())

    def mask_within(self, formed: Mask | None) -> Mask | None:
        """`formed`: the form's own mask."""
        if not self._spent or (self.form is not None and formed is None):
            return formed
        position, control = self.position, self._control
        if position.in_character:
            return _within(formed, control.continuations)
        if position.place is Place.THOUGHT:
            return control.only(control.end)
        if position.names_analysis:
            return _within(formed, control.only(control.message))
        if formed is not None:
            return control.without_analysis(formed) if position.at_channel else formed
        if position.place is Place.BETWEEN and position.is_final:
            return control.only(control.return_)
        return self._header_mask()

    def slack(self) -> int:
        if self.form is not None:
            return ENDLESS if self.form.is_over else 0
        if self._spent:
            return _SPEECH_SLACK if self.position.place is Place.SPEECH else 0
        return ENDLESS if self._budget is None else self._budget - self.position.thought

    def consume(self, token: int) -> None:
        if self.form is not None:
            self.form.consume(token)
        self.position.consume(token)

    def end_thinking(self) -> None:
        self._budget = 0

    @property
    def _spent(self) -> bool:
        return self._budget is not None and self.position.thought >= self._budget

    def _header_mask(self) -> bytes | None:
        """What a legal header goes on with; None where the header is beyond that, or there is none."""
        if self.position.place is Place.SPEECH:
            return None
        header = self._after.deep_copy()
        control, position = self._control, self.position
        said = [control.end]
        if position.place is Place.HEADER:
            drawn = position.header[:1] == [control.start]
            said += [*(() if drawn else control.opening), *position.header]
        if header.try_consume_tokens(said) < len(said) or header.is_stopped():
            return None
        return next_mask(header, self._control.mask_bytes)


def in_short(message: str) -> str:
    """One line: the library adds the parser's state, and a regex's place in several lines."""
    line = " ".join(message.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def _within(formed: Mask | None, wanted: bytes) -> bytes:
    return wanted if formed is None else both(formed, wanted)
