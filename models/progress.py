"""A bar on stderr for what takes longer than a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

#: Called with how much is done, and of how much.
Advance = Callable[[int, int], None]


@contextmanager
def bar(what: str) -> Iterator[Advance]:
    """How far it is and how long it will take, on stderr alone: answers may go to stdout meanwhile.

    Drawn from the first advance on: what fails before that says its one sentence and no more.
    """
    shown = Progress(console=Console(stderr=True), redirect_stdout=False)
    task = shown.add_task(what, total=None)

    def advance(done: int, of: int) -> None:
        shown.update(task, completed=done, total=of)
        if not shown.live.is_started:
            shown.start()

    try:
        yield advance
    finally:
        if shown.live.is_started:
            shown.stop()
