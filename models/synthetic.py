"""Generated events whose labels hang on the order of history and on nothing else.

A user first sees pairs of items, A and B of each, and noise, all shuffled, one a second; a long
time later come the probes, one for each pair. A probe is liked if A came before B. So both
classes have the same items, the same timestamps and, in buckets of powers of two, the same time
gaps: one layer of attention over the set of items has nothing to go by, whereas a second layer
can ask the record of B whether it had seen A. Nothing but probes has a label. Pairs are drawn
anew for each user and coins are independent, so earlier probes give no hint either.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

START_S = 1_700_000_000
#: Between the history and its probes. Every gap from a probe back to the history then lies in
#: one bucket: between 2**20 and 2**21 seconds.
PAUSE_S = 3 * 2**19
LONGEST_S = 2**18
COLUMNS = ("user_id", "item_id", "timestamp", "like")


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """One row; `like` is known for probes only."""

    user_id: str
    item_id: str
    timestamp: int
    like: int | None


def order_events(
    users: int = 2_000, seed: int = 0, *, pairs: int = 8, pairs_per_user: int = 4, noise: int = 4
) -> Iterator[OrderEvent]:
    """The events of every user in time order.

    `pairs` exist altogether, of which a user sees `pairs_per_user` with `noise` other items in
    between. The last probe is what a holdout of one event keeps back. With a single pair a user
    there would be nothing left to train on: then every second user has one more event of noise
    at the end, so that the probe before it is trained on.
    """
    if not 1 <= pairs_per_user <= pairs:
        raise ValueError(f"pairs per user must be between 1 and {pairs}, not {pairs_per_user}")
    if users < 1 or noise < 0:
        raise ValueError("there must be one user or more, and no less than no noise")
    if 3 * pairs_per_user + noise < 5:
        raise ValueError("a user needs 5 events or more to be evaluated: add pairs or noise")
    if 3 * pairs_per_user + noise >= LONGEST_S:
        raise ValueError(f"a user's events must fit into {LONGEST_S} seconds")
    most_noise = 7 * pairs_per_user - 1 if pairs_per_user > 1 else 15
    if noise > most_noise:
        raise ValueError(
            f"the tenth of a user's events that is held out must leave a probe to train on: noise "
            f"must be at most {most_noise} where a user sees {pairs_per_user} pair(s), not {noise}"
        )
    random = np.random.default_rng(seed)
    for user in range(users):
        chosen = random.choice(pairs, pairs_per_user, replace=False)
        history = [f"{side}{pair}" for pair in chosen for side in "ab"]
        history += [f"noise{item}" for item in random.integers(0, 4 * noise, noise)]
        history = [history[place] for place in random.permutation(len(history))]
        user_id = f"user{user}"
        for second, item in enumerate(history):
            yield OrderEvent(user_id, item, START_S + second, None)
        second = START_S + len(history) + PAUSE_S
        for pair in random.permutation(chosen):
            like = history.index(f"a{pair}") < history.index(f"b{pair}")
            yield OrderEvent(user_id, f"probe{pair}", second, int(like))
            second += 1
        if pairs_per_user == 1 and user % 2:
            yield OrderEvent(user_id, "noise0", second, None)


def write_order_example(
    out: Path,
    users: int = 2_000,
    seed: int = 0,
    *,
    pairs: int = 8,
    pairs_per_user: int = 4,
    noise: int = 4,
) -> Path:
    """Write events.csv into `out`, all of it or nothing."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "events.csv"
    half = path.with_name(f".{path.name}.{os.getpid()}")
    events = order_events(users, seed, pairs=pairs, pairs_per_user=pairs_per_user, noise=noise)
    try:
        with half.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for event in events:
                like = "" if event.like is None else event.like
                writer.writerow((event.user_id, event.item_id, event.timestamp, like))
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path
