"""Text ↔ token ids, from the checkpoint's own `tokenizer.json` and nothing else.

The file must be a byte-level BPE that holds the Harmony control tokens. Encoding never yields a control
token: they are taken out of the encoder altogether, so a user who writes "<|start|>" gets ordinary text.
Whoever wants a control token takes its id from `Tokenizer.control`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from mosso.core.byte_level import byte_alphabet
from mosso.core.errors import CheckpointError, RequestError
from mosso.harmony.tiktoken import VOCABULARY_FILE, tokenizer_json


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Ids of the tokens that structure a Harmony stream."""

    startoftext: int
    endoftext: int
    return_: int
    constrain: int
    channel: int
    start: int
    end: int
    message: int
    call: int


CHARACTERS_A_TOKEN = 32
"""No text has more on average; gpt-oss's longest token, a run of spaces, has 128."""
ALWAYS_READ = 1 << 18
"""Characters that are read whatever the context: results of tools are shorter, and are cut when read."""

_CONTROL_TEXT = {name: f"<|{name.rstrip('_')}|>" for name in ControlTokens.__slots__}


class Tokenizer:
    """A byte-level BPE vocabulary with the Harmony control tokens. Immutable, safe to share by threads."""

    def __init__(self, definition: dict[str, Any], *, file: str = "tokenizer.json") -> None:
        """`definition`: the parsed content of a tokenizer.json; `file` names it in errors.

        Raises CheckpointError when it is not a byte-level BPE or lacks a control token.
        """
        vocab, added = _read_vocabulary(definition, file)
        special = {token["content"]: token["id"] for token in added if token["special"]}
        ids = {**vocab, **{token["content"]: token["id"] for token in added}}
        for text in _CONTROL_TEXT.values():
            if text not in ids:
                raise CheckpointError(f"the vocabulary has no control token {text}", file=file)
            special[text] = ids[text]
        self.control = ControlTokens(**{name: ids[text] for name, text in _CONTROL_TEXT.items()})
        self.stop_ids = frozenset({self.control.return_, self.control.call, self.control.endoftext})
        self._special = {token_id: text for text, token_id in special.items()}
        plain = [token for token in added if token["content"] not in special]
        self._bytes = _byte_table(vocab, plain, self._special)
        self._encoder = _encoder(definition, plain, special, file)
        self._most_characters: int | None = None

    def within(self, max_context: int) -> Tokenizer:
        """The same, refusing unread what is far too long for a context of so many tokens: to read it takes
        seconds and gigabytes."""
        bounded = copy.copy(self)
        bounded._most_characters = max(CHARACTERS_A_TOKEN * max_context, ALWAYS_READ)
        return bounded

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json, or the reference vocabulary in tiktoken's format (`*.tiktoken`)."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            definition = tokenizer_json(text) if path.suffix == ".tiktoken" else json.loads(text)
        except OSError as error:
            raise CheckpointError(f"the tokenizer cannot be read: {error.strerror}", file=str(path)) from None
        except ValueError:
            raise CheckpointError("the tokenizer file is damaged", file=str(path)) from None
        return cls(definition, file=str(path))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read a checkpoint folder's tokenizer.json; for an `original/` folder, the one beside it.

        A folder that has only `o200k_base.tiktoken`, the vocabulary of gpt-oss, works too.
        """
        folder = Path(folder)
        for place in (folder, folder.absolute().parent):
            for name in ("tokenizer.json", VOCABULARY_FILE):
                if (place / name).is_file():
                    return cls.from_file(place / name)
        raise CheckpointError("the checkpoint has no tokenizer", file=str(folder))

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that has a token; a model's embedding may be padded beyond it."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary tokens only, whatever the text. Lone surrogates are encoded as U+FFFD.

        RequestError for a text that is too long by far (see `within`), or too odd for the library.
        """
        if self._most_characters is not None and len(text) > self._most_characters:
            raise RequestError(
                f"A text of {len(text):,} characters is far longer than this model's context.",
                code="context_length_exceeded",
            )
        if not text.isascii():  # Python strings may hold surrogates, UTF-8 cannot; pairs become one character
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # Of the library's ways only the batched ones let other threads run; the fast one computes no offsets.
        try:
            return list(self._encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        except BaseException as error:  # the library's panics are no Exception, and of no module
            if type(error).__name__ != "PanicException":
                raise
            raise RequestError("A text cannot be read: it has too long a run of like characters.") from None

    def decode(self, ids: Iterable[int], *, control: bool = False) -> str:
        """Text of the ids; invalid UTF-8 becomes U+FFFD, ids without a token nothing.

        `control`: control tokens appear as their names, e.g. "<|start|>"; otherwise they are left out.
        """
        if control:
            parts = (self._special[i].encode() if i in self._special else self.token_bytes(i) for i in ids)
        else:
            parts = (self.token_bytes(i) for i in ids)
        return b"".join(parts).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; b"" for a control token and for an id that has no token."""
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    def is_control(self, token: int) -> bool:
        """Whether the id is a Harmony control token or another special token of the vocabulary."""
        return token in self._special


def _read_vocabulary(definition: Any, file: str) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """(token text in byte-level spelling → id, added tokens) of a tokenizer.json."""
    try:
        model = definition["model"]
        added = [
            {**token, "id": int(token["id"]), "special": bool(token["special"])}
            for token in definition["added_tokens"]
        ]
        vocab = {str(text): int(token_id) for text, token_id in model["vocab"].items()}
        kind = model["type"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError("the tokenizer file has no vocabulary", file=file) from None
    if kind != "BPE" or not _mentions_byte_level(definition.get("pre_tokenizer")):
        raise CheckpointError("the vocabulary is not a byte-level BPE", file=file)
    return vocab, added


def _mentions_byte_level(part: Any) -> bool:
    if isinstance(part, dict):
        return part.get("type") == "ByteLevel" or any(map(_mentions_byte_level, part.values()))
    return isinstance(part, list) and any(map(_mentions_byte_level, part))


def _byte_table(
    vocab: dict[str, int], plain: list[dict[str, Any]], special: dict[int, str]
) -> tuple[bytes, ...]:
    """Bytes by id. Byte-level spelling writes each byte as one printable character."""
    spelling = {character: byte for byte, character in byte_alphabet().items()}
    size = 1 + max([*vocab.values(), *special, *(token["id"] for token in plain)])
    table = [b""] * size
    for text, token_id in vocab.items():
        if token_id not in special:
            table[token_id] = (
                bytes(spelling[c] for c in text) if spelling.keys() >= set(text) else text.encode()
            )
    for token in plain:
        table[token["id"]] = token["content"].encode()
    return tuple(table)


def _encoder(
    definition: dict[str, Any], plain: list[dict[str, Any]], special: dict[str, int], file: str
) -> tokenizers.Tokenizer:
    """An encoder that does not know the special tokens: neither as added tokens, nor through merges.

    Nothing but the text's own tokens may come out: truncation, padding and templates are left out too.
    """
    model = dict(definition["model"])
    model["vocab"] = {text: i for text, i in model["vocab"].items() if text not in special}
    # The library gives an added token its own id only where the vocabulary has it, else the next free one.
    model["vocab"].update({token["content"]: token["id"] for token in plain})
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", ()))
    model["merges"] = [m for m in merges if not special.keys() & {m[0], m[1], m[0] + m[1]}]
    without = dict.fromkeys(("truncation", "padding", "post_processor"))
    cleaned = {**definition, **without, "added_tokens": plain, "model": model}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(cleaned))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"the tokenizer file is damaged: {error}", file=file) from None
