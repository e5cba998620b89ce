"""Examples → documents of token ids, and the texts that the vocabulary is learnt from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mosso.harmony.conversation import Conversation, Message, Role
from mosso.harmony.renderer import Renderer
from mosso.harmony.tokenizer import Tokenizer
from mosso.train.examples import SKILLS, examples
from mosso.train.history import SHARE, with_histories
from mosso.train.packing import Document
from mosso.train.skills.base import Example, Split
from mosso.train.vocabulary import byte_tokenizer, learn_vocabulary


def target_ids(renderer: Renderer, target: tuple[Message, ...]) -> list[int]:
    """What the model should generate after a prompt: the prompt already holds the first message's opening.

    A last final answer ends in `<|return|>`, a call in `<|call|>`.
    """
    opening = renderer.render(Conversation(), Role.ASSISTANT)
    ids = renderer.render_for_training(Conversation(target), keep_analysis=True)
    assert ids[: len(opening)] == opening
    return ids[len(opening) :]


def to_document(renderer: Renderer, example: Example, number: int) -> Document:
    messages = example.prompt.messages
    heard = next((i for i, m in enumerate(messages) if m.role is Role.ASSISTANT), len(messages))
    prompt = renderer.render_for_completion(example.prompt)
    history = len(renderer.render(Conversation(messages[:heard])))
    return Document(prompt + target_ids(renderer, example.target), history, len(prompt), number)


@dataclass(frozen=True, slots=True)
class ExampleSource:
    """Endless training documents for a seed, numbered by their skill's index. Holds text, so it pickles."""

    tokenizer_json: str
    histories: float = SHARE

    def __call__(self, seed: int) -> Iterator[Document]:
        renderer = Renderer(Tokenizer(json.loads(self.tokenizer_json)))
        index = {skill: i for i, skill in enumerate(SKILLS)}
        for example in with_histories(examples(seed, Split.TRAIN), seed, self.histories):
            yield to_document(renderer, example, index[example.skill])


def held_out(seed: int, count: int) -> list[Example]:
    """`count` examples of the split that training never draws from."""
    return list(islice(examples(seed, Split.HELD_OUT), count))


def training_texts(seed: int, count: int) -> Iterator[str]:
    """`count` rendered training examples, control tokens spelled out."""
    tokenizer = Tokenizer(json.loads(byte_tokenizer().to_str()))
    renderer = Renderer(tokenizer)
    for example in islice(examples(seed, Split.TRAIN), count):
        yield tokenizer.decode(to_document(renderer, example, 0).ids, control=True)


def learn_tokenizer(seed: int, *, examples_seen: int, size: int) -> str:
    """The tokenizer.json of a vocabulary learnt from rendered training examples."""
    return learn_vocabulary(training_texts(seed, examples_seen), size=size).to_str(pretty=False)
