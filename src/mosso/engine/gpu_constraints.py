"""When the host must know a step's tokens before the next one draws: only for a row's mask.

Sampled tokens stay on the device, and the host learns them a step later; so it is one token behind when it
launches. A constraint says how many tokens may come whatever they are (its slack): while that is two or more,
nobody waits. Otherwise the runner launches the next step up to its hidden states; while the device computes
them, the host takes the tokens of the step before, advances the row, gets its mask and launches the draw. The
device idles only where that takes longer than a forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from mosso.core.constraints import Constrainer
from mosso.core.steps import RowWork, StepPlan
from mosso.engine.constrained import Allowed, ConstrainedRows
from mosso.engine.gpu_inputs import Slot
from mosso.engine.gpu_table import GpuTable


@dataclass(slots=True)
class _Drawn:
    """A launched step whose tokens the constraints have not seen: where each row's is, in its slot."""

    places: dict[int, int]
    slot: Slot

    def tokens(self) -> tuple[list[int], list[int]]:
        """(rows, their tokens); waits for the step."""
        self.slot.wait()
        return list(self.places), self.slot.tokens[list(self.places.values())].tolist()


class Constraints:
    """The rows' constraints, beside a device that runs ahead. Used by the loop's thread, in order."""

    def __init__(self, constrainer: Constrainer, table: GpuTable) -> None:
        def known(row: int, first: int, last: int) -> list[int]:
            found: list[int] = table.tokens[row, first:last].tolist()
            return found

        self._rows = ConstrainedRows(constrainer, known, threaded=False)
        self._unseen: list[_Drawn] = []  # oldest first; at most the last one is still under way

    def apply(self, plan: StepPlan) -> bool:
        """Note a plan; whether `allowed` must be asked before it draws. Waits for no step under way."""
        for drawn in self._unseen:
            for start in plan.starts:
                drawn.places.pop(start.row, None)  # the token is its last request's
        self._rows.apply(plan)
        self._see(self._unseen[:-1])
        return self._rows.may_restrict(_sampling(plan), self._under_way())

    def allowed(self, plan: StepPlan) -> Allowed:
        """What the sampling rows of the plan that was applied last may draw."""
        work = _sampling(plan)
        if self._rows.hurries(work, self._under_way()):
            self._see(self._unseen)
        return self._rows.allowed(work)

    def _under_way(self) -> frozenset[int]:
        """Rows whose last token is not known here yet."""
        return frozenset(self._unseen[-1].places) if self._unseen else frozenset()

    def launched(self, rows: tuple[int, ...], slot: Slot) -> None:
        """A step that draws for `rows`, in this order, is under way; its tokens come to the slot."""
        places = {row: place for place, row in enumerate(rows) if self._rows.holds((row,))}
        self._unseen.append(_Drawn(places, slot))

    def reset(self) -> None:
        """What is under way is lost; every row starts afresh."""
        self._unseen.clear()

    def close(self) -> None:
        self._rows.close()

    def _see(self, steps: list[_Drawn]) -> None:
        for drawn in steps:
            self._rows.drawn(*drawn.tokens())
        self._unseen = self._unseen[len(steps) :]


def _sampling(plan: StepPlan) -> list[RowWork]:
    return [item for item in plan.work if item.samples]
