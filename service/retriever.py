"""Retriever: the items of the whole catalogue that fit a user best."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.additions import Additions
from models.known_users import KnownUsers
from models.stage_index import IndexMissing, read_index
from service.errors import StartError
from service.job import Array, Job, Lane
from service.memory import Memory, nothing_known
from service.question import Question
from service.reception import Reception
from service.registry import Model
from service.schemas import RetrieveRequest
from service.timings import Timings

ITEM_COST = 2
"""What an item of the table costs, in query-key pairs."""


#: Of one query (1, width + 1) the best: values and rows, (1, count).
Search = Callable[[Array, int], tuple[Array, Array]]


@dataclass(frozen=True, slots=True)
class Found:
    """Items, best first, with their scores."""

    items: list[str]
    scores: Array


class Retriever:
    """Runs the retrieval model on the ranking model's records; keeps nothing."""

    def __init__(self, model: Model, ranker: Model, reception: Reception, *, max_seen: int) -> None:
        self.model, self.ranker = model, ranker
        self._reception = reception
        self._max_seen = max_seen
        additions = Additions.read(model.bundle.path)
        #: Those that were trained, in the order of the ranking model's rows, then those added.
        self.items = [*model.bundle.vocabulary.ids, *(additions.ids if additions else ())]
        try:
            #: None where the graph searches by itself, exactly.
            self._index = read_index(model.bundle.path)
        except IndexMissing as error:
            raise StartError(str(error)) from error
        #: Nobody, but in bundles with a user embedding.
        self._known_users = KnownUsers.read(model.bundle)
        self._places = {item_id: place for place, item_id in enumerate(self.items, 1)}

    def __repr__(self) -> str:
        return f"<Retriever of {len(self.items)} items>"

    @property
    def reads(self) -> int:
        """Records of a user that it looks at."""
        return self.model.spec.reads

    async def retrieve(self, request: RetrieveRequest, timings: Timings) -> dict[str, Any]:
        """The answer to a request."""
        question = self._reception.understand(
            request,
            self.ranker,
            timings,
            reads=self.reads,
            seen=self._max_seen if request.exclude_seen else 0,
        )
        memory = await self._reception.remember(question)
        found = await self.find(question, memory, request.k, exclude_seen=request.exclude_seen)
        question.check_deadline()
        return {
            "user_id": request.user_id,
            "model": self.model.name,
            "items": found.items,
            "scores": found.scores,
            "cache": memory.report(self._reception.now_s),
            "degraded": memory.degraded,
        }

    async def find(
        self,
        question: Question,
        memory: Memory,
        k: int,
        *,
        exclude_seen: bool,
        deadline: float | None = None,
    ) -> Found:
        """The `k` best items, or as many as there are; all that the graph finds is exact."""
        known, records = memory.newest(self.reads)
        row = self._known_users.row(question.user_id, records)
        asked = {**known, "timestamp": np.asarray(question.timestamp), "user_row": np.asarray(row)}
        seen = self._seen(memory) if exclude_seen else np.zeros(0, np.int64)
        wanted = min(k, len(self.items))
        if self._index is not None:
            search = self._index.search
            return await self._near(question, search, asked, records, seen, wanted, deadline)
        job = Job(
            "retrieve",
            {**asked, "seen": seen, "wanted": np.zeros(wanted, np.int8)},
            {"records": records, "seen": len(seen), "k": wanted},
            Lane.RANK,
            question.deadline if deadline is None else deadline,
            cost=ITEM_COST * len(self.items),
        )
        outputs = await self.model.batcher.submit(job)
        question.timings.queue += job.queue_s
        question.timings.run += job.run_s
        rows = outputs["found"]
        count = int(np.count_nonzero(rows >= 0))
        return Found([self.items[row] for row in rows[:count].tolist()], outputs["scores"][:count])

    async def _near(
        self,
        question: Question,
        search: Search,
        asked: dict[str, Array],
        records: int,
        seen: Array,
        k: int,
        deadline: float | None,
    ) -> Found:
        """Nearly the best, through the index; what was seen is looked for too, and dropped."""
        job = Job(
            "retrieve",
            asked,
            {"records": records},
            Lane.RANK,
            question.deadline if deadline is None else deadline,
            cost=records + 1,
        )
        user = (await self.model.batcher.submit(job))["user"]
        question.timings.queue += job.queue_s
        question.timings.run += job.run_s
        query = np.append(user[:-1], np.float32(1))[None]
        most = min(k + len(seen), len(self.items))
        values, rows = await asyncio.to_thread(search, query, most)
        kept = (rows[0] >= 0) & ~np.isin(rows[0] + 1, seen)
        rows, values = rows[0][kept][:k], values[0][kept][:k]
        scores = 1 / (1 + np.exp(-(values + user[-1])))
        return Found([self.items[row] for row in rows.tolist()], scores)

    async def find_for_anyone(self, k: int) -> Found:
        """What is found for a user of whom nothing is known: the learned prior."""
        request = RetrieveRequest(user_id="anyone", k=1)
        question = self._reception.understand(request, self.ranker, Timings(), reads=self.reads)
        nobody = nothing_known(self.ranker, "cold", [])
        return await self.find(question, nobody, k, exclude_seen=False)

    def _seen(self, memory: Memory) -> Array:
        """Places in the table of what the user was shown."""
        places = {self._places.get(item_id, 0) for item_id in memory.item_ids}
        return np.array(sorted(places - {0}), np.int64)
