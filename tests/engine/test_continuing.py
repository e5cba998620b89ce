"""A request that begins with tokens which another engine generated: what follows is the same at any cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mosso.core.errors import RequestError
from mosso.core.requests import FinishReason, Request, SamplingParams
from mosso.scheduler.sequence import token_limit

PROMPT = tuple(range(20, 57))
SAMPLINGS = {
    "greedy": SamplingParams(max_tokens=24, temperature=0),
    "seeded": SamplingParams(max_tokens=24, seed=7, top_p=0.9, top_k=50, min_p=0.01),
    "penalized": SamplingParams(
        max_tokens=24, temperature=0, presence_penalty=0.5, frequency_penalty=0.7, repetition_penalty=1.3
    ),
    "logprobs": SamplingParams(max_tokens=24, seed=3, logprobs=3),
    "least": SamplingParams(max_tokens=24, seed=5, min_tokens=17, stop_ids=frozenset(range(400))),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_rest_is_the_same_wherever_it_was_cut(bench, name):
    whole = Request("whole", PROMPT, SAMPLINGS[name])
    expected = bench().run([whole])["whole"]
    cuts = range(1, len(expected.tokens))
    parts = [replace(whole, id=f"{cut}", generated=tuple(expected.tokens[:cut])) for cut in cuts]
    found = bench().run(parts)
    for cut in cuts:
        assert found[f"{cut}"].tokens == expected.tokens[cut:]
        assert found[f"{cut}"].finish is expected.finish
        told = [entry for event in found[f"{cut}"].events for entry in event.logprobs]
        assert [entry.token for entry in told] == (expected.tokens[cut:] if name == "logprobs" else [])


def test_cached_tokens_are_the_prompts_only(bench, request_of):
    """Tokens that were generated before may be found in the cache too, but nobody is told of those."""
    made = bench()
    request = request_of("a", PROMPT, max_tokens=30)
    tokens = made.run([request])["a"].tokens
    made.run([replace(request, id="b", generated=tuple(tokens[:25]))])
    first = made.outcomes["b"].events[0]
    assert 0 < first.cached_tokens <= len(PROMPT)
    assert made.stats.cached_prompt_tokens <= made.stats.prompt_tokens


def test_a_request_that_has_all_its_tokens_is_refused(bench, request_of):
    request = replace(request_of("a", PROMPT, max_tokens=2), generated=(1, 2))
    with pytest.raises(RequestError, match="were generated before"):
        token_limit(request, 256)
    made = bench()
    made.run([request])
    assert "were generated before" in str(made.rejected["a"])
    assert made.run([replace(request, id="b", generated=(1,))])["b"].finish is FinishReason.LENGTH
