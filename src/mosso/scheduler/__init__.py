"""Requests in, one step plan out: rows, KV pages of both groups, prefix cache, policy. No torch.

Sequence    what is known of one request, and what it holds
Ranked      the running sequences, best first
Waiting     the waiting ones: by priority, within one fairly between tenants
Pace        what steps take, and how many rows may run
PagePool    one group's pages: free, cached or held
KvCache     both groups for one sequence: match, start, extend, settle, release
Scheduler   the policy over them: plan, update, abort
"""

from mosso.scheduler.config import SchedulerConfig
from mosso.scheduler.scheduler import Scheduler

__all__ = ["Scheduler", "SchedulerConfig"]
