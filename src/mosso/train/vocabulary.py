"""The demo's vocabulary: byte-level BPE learnt from training text, then Harmony's control tokens.

Text is cut before merging much as o200k cuts it, with one difference: every digit stands alone, so that the
model can work a number column by column.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

CONTROL_TOKENS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
    "<|endofprompt|>",
)
STOP_TOKENS = ("<|return|>", "<|endoftext|>", "<|call|>")

# In order: a word with the space or mark before it and an English contraction after it; one digit; a run of
# punctuation with the space before it and the line ends after it; line ends; other white space.
_PIECES = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def byte_tokenizer() -> Tokenizer:
    """256 byte tokens and the control tokens: renders training text before there is a vocabulary."""
    return learn_vocabulary((), size=256 + len(CONTROL_TOKENS))


def learn_vocabulary(texts: Iterable[str], *, size: int) -> Tokenizer:
    """BPE of `size` tokens in all; every byte has a token, and the control tokens have the last ids.

    Control tokens that occur in `texts` cut them and take no part in merges.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex("|".join(map(_escaped, CONTROL_TOKENS))), "removed"),
            Split(Regex(_PIECES), "isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=size - len(CONTROL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(_PIECES), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    controls = [AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS]
    # A short corpus may not fill the vocabulary; reserved tokens keep the size, and so the shapes, as asked.
    spare = size - len(CONTROL_TOKENS) - tokenizer.get_vocab_size()
    reserved = [AddedToken(f"<|reserved_{i}|>", special=True, normalized=False) for i in range(spare)]
    tokenizer.add_special_tokens(reserved + controls)
    return tokenizer


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")
