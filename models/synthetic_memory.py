"""Generated events that ask for memory: how much of it is worth what is known beforehand.

Every item is shown to a user once, and liked or not by the toss of a coin. A probe shows one of
them again, and its label is the same. How long ago it was is drawn so that a memory of m >= 8
events does without the share (m / 8) ** -demand of the probes. It knows the others and has to
guess for these: its GAUC is 1 - (m / 8) ** -demand / 2, a power law.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START_S = 1_700_000_000
#: Of a user's events: the last tenth is what is held out.
SHOWN, TAUGHT, HELD = 0.6, 0.3, 0.1

#: No probe asks for what is nearer than this; beyond it there is room for all of them.
NEAREST = 8

Row = tuple[str, str, int, int]


def memory_events(
    users: int, seed: int = 0, *, items: int = 500, events: int = 120, demand: float = 1.0
) -> Iterator[Row]:
    """(user_id, item_id, timestamp, like) of every user in time order.

    First come items alone, then probes that teach with other items between them, and in the tenth
    that is held out probes only; their distance counts from where that begins.
    """
    if events < 40 or events > items:
        raise ValueError(f"a user needs 40 events or more, and at most one per item, not {events}")
    if not 0 < demand <= 4:
        raise ValueError(f"the demand must be above 0 and at most 4, not {demand}")
    if users < 1:
        raise ValueError("there must be one user or more")
    random = np.random.default_rng(seed)
    n_shown, n_held = int(SHOWN * events), int(HELD * events)
    for user in range(users):
        fresh = iter(random.permutation(items).tolist())
        shown: list[tuple[int, int]] = []  # item and label, in order
        used: set[int] = set()
        for place in range(events):
            is_held = place >= events - n_held
            is_probe = is_held or (place >= n_shown and place % 2 == 1)
            source = _source(random, shown[: events - n_held], used, demand) if is_probe else None
            if source is None:
                event = (next(fresh), int(random.integers(0, 2)))
            else:
                used.add(source)
                event = shown[source]
            if not is_held:
                shown.append(event)
            yield f"user{user}", f"item{event[0]}", START_S + place, event[1]


def _source(
    random: np.random.Generator, shown: list[tuple[int, int]], used: set[int], demand: float
) -> int | None:
    """A place that no probe has asked for yet, about as far back as the draw says."""
    # 1 - random() is never 0.
    distance = int(np.ceil(NEAREST * min((1 - random.random()) ** (-1 / demand), 1e6)))
    wanted = len(shown) - min(distance, len(shown))
    for step in range(len(shown)):
        for place in (wanted - step, wanted + step):
            if 0 <= place < len(shown) and place not in used and _is_last(shown, place):
                return place
    return None


def _is_last(shown: list[tuple[int, int]], place: int) -> bool:
    return all(item != shown[place][0] for item, _ in shown[place + 1 :])


def write_memory_example(out: Path, users: int, seed: int, **options: Any) -> Path:
    """Write events.parquet into `out`, all of it or nothing."""
    rows = list(memory_events(users, seed, **options))
    names = ("user_id", "item_id", "timestamp", "like")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "events.parquet"
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path
