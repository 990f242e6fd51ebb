"""What a search by attention looks through: keys and values of a long history, kept with it."""

from __future__ import annotations

import numpy as np

from service.collate import NEVER
from service.job import Array
from service.memory import Memory
from service.projecting import project
from service.question import Question


async def sought(question: Question, memory: Memory) -> dict[str, Array] | None:
    """What the graph `found` reads of a user, each (1, events + 1, …); None if all are attended to.

    It stays with the memory, which the near tier may keep.
    """
    spec = question.model.spec
    if not spec.search or spec.finds_first or memory.events <= spec.search:
        return None
    if memory.ready is None:
        known, _ = memory.newest(spec.attends)
        counted = np.flatnonzero(spec.counted(known["feedback"]))
        question.check_deadline()
        more = 1 if len(counted) else 2  # the graph wants one event at least
        rows = {n: _with_more(n, part[counted], more)[None] for n, part in known.items()}
        events = len(counted)
        memory.ready = await project(rows, question, {"records": events + more}, each=events)
    return memory.ready


def _with_more(name: str, part: Array, count: int) -> Array:
    """Rows in the future of everything behind: the graph puts its null token in the last."""
    rest = np.full((count, *part.shape[1:]), NEVER if name == "timestamps" else 0, part.dtype)
    return np.concatenate([part, rest])
