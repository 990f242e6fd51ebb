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
    """Stdout is left alone: answers may go there meanwhile."""
    with Progress(console=Console(stderr=True), redirect_stdout=False) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)
