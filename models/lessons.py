"""Lessons: random requests from a log, and what the ranking model says to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from models.events import EventTable
from models.reader import History
from models.sequences import NEVER_S
from models.teacher import Feed, Teacher, decoded

Array = np.ndarray[Any, Any]
Advance = Callable[[int, int], None]

#: Of a timeline, the newest events that lessons are about; what they are preceded by is read too.
LONGEST = 600
#: Of users, as many are asked about, because their records are kept.
MOST_USERS = 4_000


@dataclass(frozen=True, slots=True)
class Past:
    """A stretch of one user's timeline with the ranking model's records."""

    items: Array  # (T,) int64
    timestamps: Array  # (T,) int64
    feedback: Array  # (T, tasks) int8
    records: Array  # (T, cached depths, width) float32


@dataclass(frozen=True, slots=True)
class Lesson:
    """A few requests at once."""

    history: History
    timestamps: Tensor  # (B,)
    users: Tensor  # (B,) places in `Lessons.users` plus one, 0 where there is no history
    candidates: Tensor  # (B, C) rows of the vocabulary
    taught: Tensor  # (B, C, tasks) the ranking model's logits
    liked: tuple[Tensor, Tensor]  # request and item of what was liked soon after


class Lessons:
    """`count` requests, kept with the answers, because making them costs more than learning."""

    def __init__(
        self,
        users: Array,
        pasts: list[Past],
        of: Array,
        cuts: Array,
        asked_at: Array,
        candidates: Array,
        taught: Array,
    ) -> None:
        #: Whose they are: users of the table.
        self.users = users
        self._pasts, self._of, self._cuts = pasts, of, cuts
        self._asked_at, self._candidates, self._taught = asked_at, candidates, taught

    def __len__(self) -> int:
        return len(self._cuts)

    @classmethod
    def ask(
        cls,
        teacher: Teacher,
        table: EventTable,
        users: Array,
        random: np.random.Generator,
        *,
        count: int,
        candidates: int,
        cold: float,
        most_users: int = MOST_USERS,
        advance: Advance = lambda done, of: None,
    ) -> Self:
        """Asks the teacher about `candidates` random rows after random beginnings of timelines.

        The items of `table` are the teacher's rows; a share `cold` of requests has no history.
        """
        users = random.permutation(users)[:most_users]
        each = -(-count // max(1, len(users)))
        rows = len(teacher.bundle.vocabulary) + teacher.spec.fallback_rows
        pasts, of, cuts, asked_at, drawn, taught = [], [], [], [], [], []
        for done, user in enumerate(users):
            past, whole, encoded = _past(teacher, table, table.user(int(user)))
            pasts.append(past)
            for _ in range(each):
                cut = int(random.integers(0, len(past.items)))
                when = int(past.timestamps[cut])
                cut = 0 if random.random() < cold else cut
                some = random.integers(0, rows, candidates)
                seen, known = (
                    {n: part[:, :cut] for n, part in f.items()} for f in (whole, encoded)
                )
                taught.append(teacher.logits(some, when, seen, known))
                of.append(done)
                cuts.append(cut)
                asked_at.append(when)
                drawn.append(some)
            advance(done + 1, len(users))
        return cls(
            users, pasts, np.array(of), np.array(cuts), np.array(asked_at), np.array(drawn),
            np.array(taught, np.float32),
        )  # fmt: skip

    def take(self, which: Array, window: int, soon: int) -> Lesson:
        """Some of them, each with the newest `window` events before it."""
        pasts = [self._pasts[place] for place in self._of[which]]
        cuts = self._cuts[which]
        request, liked = _liked(pasts, cuts, soon)
        return Lesson(
            windows(pasts, cuts, window),
            torch.from_numpy(self._asked_at[which]),
            torch.from_numpy(np.where(cuts > 0, self._of[which] + 1, 0)),
            torch.from_numpy(self._candidates[which]),
            torch.from_numpy(self._taught[which]),
            (torch.from_numpy(request), torch.from_numpy(liked)),
        )


def windows(pasts: list[Past], ends: Array, window: int) -> History:
    """The newest `window` events before each end; what is missing lies in the future."""
    B, first = len(pasts), pasts[0]
    items = np.zeros((B, window), np.int64)
    timestamps = np.full((B, window), NEVER_S, np.int64)
    feedback = np.full((B, window, first.feedback.shape[1]), -1, np.int8)
    records = np.zeros((B, window, *first.records.shape[1:]), np.float32)
    for row, (past, end) in enumerate(zip(pasts, ends, strict=True)):
        span = slice(max(0, end - window), end)
        n = span.stop - span.start
        if n:
            items[row, -n:] = past.items[span]
            timestamps[row, -n:] = past.timestamps[span]
            feedback[row, -n:] = past.feedback[span]
            records[row, -n:] = past.records[span]
    return History(*map(torch.from_numpy, (items, timestamps, feedback, records)))


def _past(teacher: Teacher, table: EventTable, span: slice) -> tuple[Past, Feed, Feed]:
    lead = teacher.spec.receptive_field
    whole = slice(max(span.start, span.stop - LONGEST - lead), span.stop)
    feed = {
        "items": table.items[whole][None],
        "timestamps": table.timestamps[whole][None],
        "feedback": table.labels[whole][None],
    }
    rows = teacher.rows(feed)
    newest = slice(max(0, (whole.stop - whole.start) - LONGEST), None)
    feed = {name: part[:, newest] for name, part in feed.items()}
    rows = {name: part[:, newest] for name, part in rows.items()}
    records = decoded(rows)
    if records is None:
        records = np.zeros((1, feed["items"].shape[1], 0, teacher.spec.width), np.float32)
    past = Past(feed["items"][0], feed["timestamps"][0], feed["feedback"][0], records[0])
    return past, feed, rows


def _liked(pasts: list[Past], cuts: Array, soon: int) -> tuple[Array, Array]:
    requests, items = [], []
    for row, (past, cut) in enumerate(zip(pasts, cuts, strict=True)):
        span = slice(cut, cut + soon)
        liked = past.items[span][past.feedback[span, 0] == 1]
        requests.append(np.full(len(liked), row))
        items.append(liked)
    return np.concatenate(requests), np.concatenate(items)
