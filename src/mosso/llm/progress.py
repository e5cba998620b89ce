"""How far a batch is: a bar that vanishes in a terminal, one that stays in a notebook, else nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

_BAR = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
_SECONDS = 0.1  # between a notebook's updates, each of which is a message


@contextmanager
def shown(total: int, *, hidden: bool) -> Iterator[Callable[[], None]]:
    """Gives what to call when one more is done."""
    console = Console(stderr=True)
    if console.is_jupyter and not hidden:
        yield _in_notebook(total)
        return
    with Progress(*_BAR, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("generating", total=total)
        yield lambda: bar.advance(task)


def _in_notebook(total: int) -> Callable[[], None]:
    """rich would need ipywidgets, and the browser their scripts; the browser has a bar of its own."""
    from IPython.display import HTML, display

    def drawn() -> HTML:
        bar = f'<progress max="{total}" value="{done}"></progress>'
        return HTML(f"generating {bar} {done}/{total}")  # type: ignore[no-untyped-call]

    done, last = 0, 0.0
    handle = display(drawn(), display_id=True)  # type: ignore[no-untyped-call]

    def advance() -> None:
        nonlocal done, last
        done += 1
        if handle is not None and (done == total or time.monotonic() - last >= _SECONDS):
            last = time.monotonic()
            handle.update(drawn())

    return advance
