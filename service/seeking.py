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
        counted = spec.counted(known["feedback"])
        question.check_deadline()
        rows = {name: _with_one_more(name, part[counted])[None] for name, part in known.items()}
        events = int(counted.sum())
        memory.ready = await project(rows, question, {"records": events + 1}, each=events)
    return memory.ready


def _with_one_more(name: str, part: Array) -> Array:
    """A last row, in the future of everything: the graph puts its null token there."""
    last = np.full_like(part[:1], NEVER if name == "timestamps" else 0)
    return np.concatenate([part, last])
