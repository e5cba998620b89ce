"""What a choice's state machine yields: the dialect's news, before it is JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from mosso.core.requests import TokenLogprob


@dataclass(slots=True)
class ReasoningText:
    """More of the thinking."""

    text: str


@dataclass(slots=True)
class ContentText:
    """More of the answer, with the log probabilities of the tokens that it completes."""

    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(slots=True)
class CallStarted:
    """A call begins; `index` counts the calls of this choice."""

    index: int
    id: str
    name: str


@dataclass(slots=True)
class CallArguments:
    """More of a call's arguments."""

    index: int
    text: str


@dataclass(slots=True)
class Finished:
    """The choice's last delta. `reason`: stop, length or tool_calls; `stop`: the stop string that matched."""

    reason: str
    stop: str = ""


Delta = ReasoningText | ContentText | CallStarted | CallArguments | Finished
