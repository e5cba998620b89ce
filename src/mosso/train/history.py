"""Earlier, unrelated turns before an example: people ask one thing after another in the same chat.

History is as a client sends it: questions and final answers, no thoughts. Only examples without tools lend
their turns, so that no call appears in a chat that does not offer its function.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mosso.harmony.conversation import Channel, Conversation, Message, Role
from mosso.train.skills.base import Example

SHARE = 0.08  # of the examples get a history
MOST_TURNS = 60  # lengths are log-uniform: as many histories of 1 to 2 turns as of 20 to 40
_RECENT = 256  # examples to draw turns from


def turns_of(example: Example) -> tuple[Message, ...]:
    """The example as history, or () when it cannot serve: tools, instructions, no final answer."""
    plain = all(m.role in (Role.SYSTEM, Role.USER, Role.ASSISTANT) for m in example.prompt.messages)
    answer = example.target[-1] if example.target else None
    if not plain or answer is None or answer.channel != Channel.FINAL:
        return ()
    kept = [
        m for m in example.prompt.messages if m.role is not Role.SYSTEM and m.channel in (None, Channel.FINAL)
    ]
    return (*kept, answer)


def with_histories(examples: Iterable[Example], seed: int, share: float = SHARE) -> Iterator[Example]:
    """The same examples in the same order, some of them with turns of recent ones before their question."""
    draw = random.Random(seed)
    recent: deque[tuple[Message, ...]] = deque(maxlen=_RECENT)
    for example in examples:
        turns = turns_of(example)
        if recent and not example.alone and draw.random() < share:
            count = int(MOST_TURNS ** draw.random())
            example = _prepend(example, [draw.choice(recent) for _ in range(count)])
        if turns:
            recent.append(turns)
        yield example


def _prepend(example: Example, histories: list[tuple[Message, ...]]) -> Example:
    """Turns go between the system and developer messages and the rest."""
    messages = example.prompt.messages
    start = next(
        (i for i, m in enumerate(messages) if m.role not in (Role.SYSTEM, Role.DEVELOPER)), len(messages)
    )
    earlier = [message for history in histories for message in history]
    return replace(example, prompt=Conversation((*messages[:start], *earlier, *messages[start:])))
