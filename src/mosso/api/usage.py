"""Token counts, as the dialect reports them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel


class PromptTokensDetails(BaseModel):
    cached_tokens: int = 0


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


Report = Callable[[Usage], None]  # told the counts when an answer ends, however it ends


@dataclass(slots=True)
class TokenCounts:
    """What one choice used so far. Control tokens count as generated, as the model had to make them."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    reasoning: int = 0

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt,
            completion_tokens=self.generated,
            total_tokens=self.prompt + self.generated,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.cached),
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=self.reasoning),
        )


def sum_counts(prompts: list[list[TokenCounts]]) -> TokenCounts:
    """Counts over prompts × choices: a prompt counts once however many choices share it.

    Choices after the first hit the first one's prefix, so the least cached choice tells what the prompt hit.
    """
    return TokenCounts(
        prompt=sum(choices[0].prompt for choices in prompts),
        cached=sum(min(choice.cached for choice in choices) for choices in prompts),
        generated=sum(choice.generated for choices in prompts for choice in choices),
        reasoning=sum(choice.reasoning for choices in prompts for choice in choices),
    )
