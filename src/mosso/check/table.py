"""The report as a person reads it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from mosso.check.examination import Outcome, Report

MARKS = {
    Outcome.PASSED: "[green]pass[/]",
    Outcome.FAILED: "[bold red]FAIL[/]",
    Outcome.SKIPPED: "[dim]skipped[/]",
}


def table(report: Report) -> RenderableType:
    """A line a case, and the sums below."""
    lines = Table(box=None, pad_edge=False, header_style="dim")
    lines.add_column("case", no_wrap=True)
    lines.add_column("")
    lines.add_column("what was looked at, and what was found")
    for result in report.results:
        about = escape(result.about)
        if result.why:
            color = "red" if result.outcome is Outcome.FAILED else "dim"
            about += f"\n[{color}]{escape(result.why)}[/]"
        lines.add_row(result.name, MARKS[result.outcome], about)
    sums = ", ".join(f"{report.count(outcome)} {outcome}" for outcome in Outcome)
    return Group(lines, "", escape(f"{report.url} ({report.model}): {sums}"))
