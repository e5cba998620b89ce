"""OpenAI's service tiers, in terms of priority.

flex      behind what the caller asks for otherwise: cheaper there, later here when there is much to do
priority  where the caller's key stands: no key gets more than it was given, and the answer says so
"""

from __future__ import annotations

from typing import Literal

from mosso.api.caller import Caller

ServiceTier = Literal["auto", "default", "flex", "priority"]
ServedTier = Literal["default", "flex", "priority"]
FLEX = 1000  # places behind


def rank_of(caller: Caller, own: int, tier: ServiceTier | None) -> int:
    """The priority of a request for which the client gave `own` and `tier`; raises as Caller.rank."""
    return caller.rank(own) + (FLEX if tier == "flex" else 0)


def served_tier(tier: ServiceTier | None, priority: int) -> ServedTier:
    """What an answer says about a request that asked for `tier` and was served with `priority`."""
    if tier == "flex":
        return "flex"
    return "priority" if tier == "priority" and priority < 0 else "default"
