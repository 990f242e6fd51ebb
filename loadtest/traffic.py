"""What is asked: users by Zipf, candidate lists by popularity, and a share of events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import orjson

BLOCK = 4_096  # random numbers are drawn this many at a time
DECK = 256  # different candidate lists; drawn once, dealt over and over

Kind = Literal["rank", "events"]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class TrafficError(ValueError):
    """Traffic that cannot be made from what was given."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question, as bytes ready to be sent."""

    kind: Kind
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Universe:
    """The users and items there are, the most active and most popular first."""

    users: Sequence[str]
    items: Sequence[str]
    item_weights: Floats

    @classmethod
    def of_counts(cls, users: int, items: int) -> Self:
        """Users `1..users` and items `1..items`, as MovieLens numbers them; popularity by Zipf."""
        return cls(
            [str(number) for number in range(1, users + 1)],
            [str(number) for number in range(1, items + 1)],
            zipf(items, 1.0),
        )

    @classmethod
    def of_events(cls, path: Path) -> Self:
        """The ids of an events file, weighted by how often they stand in it."""
        users, _ = _counted(path, "user_id")
        items, counts = _counted(path, "item_id")
        return cls(users, items, counts / counts.sum())


class Traffic(Iterator[Request]):
    """Requests without end; the same seed asks the same questions of the same users."""

    def __init__(
        self,
        universe: Universe,
        *,
        candidates: int = 100,
        events_share: float = 0.0,
        exponent: float = 1.0,
        task: str = "like",
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not universe.users or not universe.items:
            raise TrafficError("traffic needs at least one user and one item")
        if not 1 <= candidates <= len(universe.items):
            raise TrafficError(
                f"{candidates} different candidates cannot be drawn "
                f"from {len(universe.items)} items"
            )
        self._rng = np.random.default_rng(seed)
        self._users = [_id(user) for user in universe.users]
        self._items = [_id(item) for item in universe.items]
        self._events_share = events_share
        self._task = orjson.dumps(task)
        self._clock = clock
        self._lists = [
            _array([self._items[item] for item in draw])
            for draw in _lists(universe.item_weights, candidates, self._rng)
        ]
        self._requests = self._draw(
            np.cumsum(zipf(len(self._users), exponent)), np.cumsum(universe.item_weights)
        )

    def __next__(self) -> Request:
        return next(self._requests)

    def _draw(self, user_cdf: Floats, item_cdf: Floats) -> Iterator[Request]:
        while True:
            users = _pick(user_cdf, self._rng)
            items = _pick(item_cdf, self._rng)
            lists = self._rng.integers(len(self._lists), size=BLOCK).tolist()
            dice = self._rng.random(BLOCK).tolist()
            for user, item, deal, die in zip(users, items, lists, dice, strict=True):
                if die < self._events_share:
                    yield self._event(self._users[user], self._items[item], deal % 2)
                else:
                    yield self._rank(self._users[user], self._lists[deal])

    def _rank(self, user: bytes, candidates: bytes) -> Request:
        body = b'{"user_id":%b,"candidates":%b}' % (user, candidates)
        return Request("rank", "/v1/rank", body)

    def _event(self, user: bytes, item: bytes, label: int) -> Request:
        body = b'{"events":[{"user_id":%b,"item_id":%b,"timestamp":%d,"feedback":{%b:%d}}]}' % (
            user,
            item,
            int(self._clock()),
            self._task,
            label,
        )
        return Request("events", "/v1/events", body)


def zipf(count: int, exponent: float) -> Floats:
    """Probabilities of ranks 1 to `count`: the n-th is n ** exponent times rarer than the first."""
    weights: Floats = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return weights / np.sum(weights)


def _pick(cdf: Floats, rng: np.random.Generator) -> list[int]:
    found = np.searchsorted(cdf, rng.random(BLOCK) * cdf[-1], side="right")
    picked: list[int] = np.minimum(found, len(cdf) - 1).tolist()
    return picked


def _lists(weights: Floats, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Weighted draws without repetition: the first `size` of a race of exponential clocks."""
    for _ in range(DECK):
        race = rng.exponential(size=len(weights)) / weights
        first = np.argpartition(race, size - 1)[:size]
        yield rng.permutation(first).tolist()


def _id(text: str) -> bytes:
    """An id as JSON, a number where that is how the same id is written shortest."""
    number = text.isascii() and text.isdigit() and len(text) <= 15 and str(int(text)) == text
    return text.encode() if number else orjson.dumps(text)


def _array(values: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(values)


def _counted(path: Path, column: str) -> tuple[list[str], Floats]:
    """The different values of one column, the most frequent first, with their counts."""
    # Slow to import, and loaded with every `marmot` command: only this function needs it.
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.csv  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path, columns=[column])
        else:
            options = pyarrow.csv.ConvertOptions(
                column_types={column: pa.string()}, include_columns=[column]
            )
            table = pyarrow.csv.read_csv(path, convert_options=options)
        values = table[column].cast(pa.string()).drop_null()
    except FileNotFoundError:
        raise TrafficError(
            f"no events at {path}; without --events users and items are made up"
        ) from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise TrafficError(f"{path}: no column {column} can be read from it") from error
    pairs = [(count["values"], count["counts"]) for count in values.value_counts().to_pylist()]
    if not pairs:
        raise TrafficError(f"{path}: there is no {column} in it")
    pairs.sort(key=lambda pair: (-pair[1], pair[0]))
    return [value for value, _ in pairs], np.array([count for _, count in pairs], np.float64)
