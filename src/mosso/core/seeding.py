"""Whoever first needs an unseeded request to be repeatable gives it a seed."""

from __future__ import annotations

import random
from dataclasses import replace

from mosso.core.requests import Request


def with_seed(request: Request) -> Request:
    """Given once and then kept: after a preemption, or an engine's death, the same noise goes on."""
    if request.sampling.seed is not None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=random.getrandbits(63)))
