"""The engine's figures beside its bars, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mosso.bench.bars import Bar, Bars

Met = Literal["aim", "must", "no", "-"]
NONE = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. None: there is no such figure, or it was not measured."""

    name: str
    floor: float | None
    bar: Bar
    found: float | None
    less: bool = True  # whether less is better

    @property
    def met(self) -> Met:
        """The harder of the two that the figure reaches, before it is rounded."""
        if self.found is None:
            return "-"
        if self.bar.aim is not None and self._reaches(self.bar.aim):
            return "aim"
        return "must" if self._reaches(self.bar.must) else "no"

    def _reaches(self, bar: float) -> bool:
        assert self.found is not None
        return self.found <= bar if self.less else self.found >= bar


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one engine, and the floors of that. What could not be measured is missing."""

    floors: Mapping[int, float]  # seconds of a decode step, by batch
    steps: Mapping[int, float]  # the same, measured
    most_prefill: float | None  # tokens a second
    prefill: float | None
    kv_tokens: int
    notes: Sequence[str] = field(default=())


def rows_of(bars: Bars, figures: Figures) -> list[Row]:
    found = [
        Row(str(batch), _milliseconds(figures.floors, batch), bar, _milliseconds(figures.steps, batch))
        for batch, bar in bars.decode.items()
    ]
    prefill = Row("prefill tok/s", figures.most_prefill, bars.prefill, figures.prefill, less=False)
    kv = Row("KV tokens that fit", None, bars.kv_tokens, figures.kv_tokens, less=False)
    return [*found, prefill, kv]


def _milliseconds(seconds: Mapping[int, float], batch: int) -> float | None:
    return 1e3 * seconds[batch] if batch in seconds else None


def render(bars: Bars, figures: Figures, provenance: Mapping[str, Any]) -> str:
    """Markdown: where the figures come from, then the table."""
    return "\n".join([*_heading(bars, figures, provenance), "", *_table(rows_of(bars, figures))]) + "\n"


def _heading(bars: Bars, figures: Figures, provenance: Mapping[str, Any]) -> Iterator[str]:
    p = provenance
    yield f"## {bars.name} on {p['device']}: {bars.prompt} tokens in, {bars.output} out"
    yield ""
    yield f"- {p['date']}, mosso {p['mosso']} ({p['commit']}), torch {p['torch']}, triton {p['triton']}"
    yield f"- `{p['command']}`"
    yield from (f"- {note}" for note in figures.notes)
    yield (
        "- Batches: milliseconds a decode step, the median of those with all rows; less is better. "
        "Prefill and KV tokens: more is better. Met: the harder bar that was reached."
    )


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| batch | floor | vLLM 0.26 | mosso | must | aim | met |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        figures = (row.floor, row.bar.vllm, row.found, row.bar.must, row.bar.aim)
        yield f"| {row.name} | {' | '.join(map(_shown, figures))} | {row.met} |"


def _shown(figure: float | None) -> str:
    if figure is None:
        return NONE
    return f"{figure:.2f}" if figure < 1000 else f"{figure:,.0f}"
