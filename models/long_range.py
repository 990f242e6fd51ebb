"""Generated events whose labels hang on one event far back and on nothing else.

A user begins with one event for each of a few topics, liked or not by the toss of a coin. Then
comes noise, about `distance` events of it, and after that the probes, one for each topic: a probe
is liked exactly if the event of its topic was. Each coin decides one probe, so nothing nearer
tells, and every item is liked as often as not. Probes share their topic's category with the event
that decides them, and with nothing else.

Half of the probes come before the tenth of a user's events that is held out, half within it.
Noise has no label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.whole_file import written_whole

START_S = 1_700_000_000
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class LongRange:
    """What is generated; a `ValueError` says which numbers do not go together.

    `topics` and `noise_items` exist altogether, and a user sees `topics_per_user` of them. Who is
    told no categories must learn which probe goes with which topic from the users that show both:
    the more topics there are, the more users that takes.
    """

    users: int = 200
    distance: int = 5_000
    topics: int = 16
    topics_per_user: int = 16
    noise_items: int = 400
    noise_categories: int = 20

    def __post_init__(self) -> None:
        if self.users < 1 or self.noise_items < 1 or self.noise_categories < 1:
            raise ValueError("there must be one user, one noise item and one noise category")
        if self.topics_per_user % 2 or not 2 <= self.topics_per_user <= self.topics:
            raise ValueError(
                f"topics per user must be even and between 2 and {self.topics}, "
                f"not {self.topics_per_user}"
            )
        if self.distance < 5 * self.topics_per_user:
            raise ValueError(
                f"the distance must be at least {5 * self.topics_per_user} events, five for each "
                f"topic of a user, not {self.distance}"
            )

    @property
    def held_out(self) -> int:
        """Events in the last tenth of a user's, the second half of the probes among them."""
        return (self.distance + self.topics_per_user // 2) // 9

    @property
    def events_per_user(self) -> int:
        return self.distance + self.topics_per_user // 2 + self.held_out

    def events(self, seed: int) -> Iterator[tuple[list[str], np.ndarray]]:
        """Item ids and labels of each user's events in time order, one a second."""
        random = np.random.default_rng(seed)
        half, last = self.topics_per_user // 2, self.events_per_user
        for _ in range(self.users):
            noise = random.integers(0, self.noise_items, last)
            items = [f"noise{item}" for item in noise.tolist()]
            labels = np.full(last, UNKNOWN, np.int8)
            topics = random.choice(self.topics, self.topics_per_user, replace=False)
            coins = random.integers(0, 2, self.topics_per_user, dtype=np.int8)
            places = (0, self.distance, last - half)
            spans = ((0, 2 * half), (0, half), (half, 2 * half))
            for name, place, (first, end) in zip(
                ("topic", "probe", "probe"), places, spans, strict=True
            ):
                items[place : place + end - first] = [f"{name}{t}" for t in topics[first:end]]
                labels[place : place + end - first] = coins[first:end]
            yield items, labels

    def categories(self) -> dict[str, str]:
        """Every item's category."""
        noise = {f"noise{n}": f"other{n % self.noise_categories}" for n in range(self.noise_items)}
        sides = ("topic", "probe")
        return {f"{s}{t}": f"about{t}" for s in sides for t in range(self.topics)} | noise


def write_long_range(out: Path, shape: LongRange, seed: int = 0) -> tuple[Path, Path]:
    """Writes events.parquet and items.parquet into `out`, each of them whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    events, items = out / "events.parquet", out / "items.parquet"
    columns = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()}
    schema = pa.schema({**columns, "like": pa.int8()})
    seconds = pa.array(range(START_S, START_S + shape.events_per_user), pa.int64())
    with written_whole(events) as half, pq.ParquetWriter(half, schema) as writer:
        for user, (seen, labels) in enumerate(shape.events(seed)):
            like = pa.array(labels, pa.int8(), mask=labels == UNKNOWN)
            users = pa.array([f"user{user}"] * len(seen), pa.string())
            rows = [users, pa.array(seen, pa.string()), seconds, like]
            writer.write_table(pa.table(rows, schema=schema))
    with written_whole(items) as half:
        known = shape.categories()
        pq.write_table(pa.table({"item_id": [*known], "category": [*known.values()]}), half)
    return events, items
