"""A bundle of another window, to measure with: the same graphs, weights nobody trained.

What a run costs does not hang on the weights. It is made by `marmot train` itself, in one epoch
over made-up events, so that it is a bundle like any other; that needs the extra `train`.
"""

from __future__ import annotations

import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import numpy as np

from loadtest.processes import BenchError, running

USERS = 100
EVENTS = 50  # of each user; the last of them are held out
ITEMS = 2_500  # of which more than 2,000 are seen in training: as many as candidates may be


async def untrained_bundle(folder: Path, window: int) -> Path:
    """Makes the bundle, with `marmot train`'s defaults apart from the window."""
    events, bundle = folder / "events.csv", folder / "bundle"
    events.write_text(_events())
    command = [
        sys.executable, "-c", "import service.marmot; service.marmot.main()", "train",
        "--events", str(events), "--out", str(bundle), "--window", str(window), "--epochs", "1",
    ]  # fmt: skip
    async with running(command, stdout=PIPE, stderr=PIPE) as process:
        _, said = await process.communicate()
    if process.returncode:
        last = said.decode().strip().rpartition("\n")[2]
        raise BenchError(f"no bundle with a window of {window} could be made: {last}")
    return bundle


def _events() -> str:
    """Everybody sees everything in turn, and likes half of it."""
    likes = np.random.default_rng(0).integers(0, 2, USERS * EVENTS).tolist()
    lines = [
        f"{n // EVENTS},{n % ITEMS},{1_000_000_000 + 1_000 * n},{like}"
        for n, like in enumerate(likes)
    ]
    return "\n".join(["user_id,item_id,timestamp,like", *lines, ""])
