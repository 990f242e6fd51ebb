"""A backfill in parts that hold whole users: spread over a Ray cluster, or taken up again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cache.url import without_password
from models.bundle import BundleError, load_bundle
from models.event_parts import split_events
from models.events import read_events
from models.fleet import Journal, On, digest, spread
from models.progress import bar
from service.backfill import Backfilled, fill
from service.errors import StartError, UsageError
from service.house import open_model, open_store
from service.logging import configure_logging
from service.settings import Settings

PARTS = 16
"""At least so many, so that there is something to share out and little to do again."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What every part is recorded with: values, whatever the environment of a machine says."""

    settings: dict[str, Any]
    tasks: tuple[str, ...]


def record_part(recording: Recording, part: bytes) -> dict[str, Any]:
    """Records a part, an Arrow stream; twice changes nothing. Returns `Backfilled` as a dict."""
    settings = Settings(**recording.settings)
    configure_logging(form=settings.log_format, level=settings.log_level)
    with TemporaryDirectory(prefix="marmot-") as folder:
        file = Path(folder) / "part.arrows"
        file.write_bytes(part)
        table = read_events(file, recording.tasks)

    async def run() -> Backfilled:
        async with AsyncExitStack() as stack:
            model = open_model(settings, stack)
            cache = await open_store(settings, model)
            stack.push_async_callback(cache.close)
            return await fill(model, cache, table, lambda done, of: None)

    try:
        return dataclasses.asdict(asyncio.run(run()))
    except ExceptionGroup as failed:  # of users that were recorded side by side
        raise failed.exceptions[0] from None


def backfill_parts(settings: Settings, events: Path, *, on: On, resume: Path | None) -> Backfilled:
    """As `backfill`, part by part; with `resume`, a folder, without those that are done.

    Raises `UsageError`, `StartError`, and `StoreAway` with some of the file recorded.
    """
    scheme, _, path = settings.cache.partition(":")
    if on == "ray" and scheme == "lmdb":
        raise UsageError("an LMDB store is one machine's own: --on ray takes a Redis for --cache")
    cache = f"lmdb:{Path(path).resolve()}" if scheme == "lmdb" else settings.cache
    bundle = settings.bundle.resolve()
    try:
        fingerprint = load_bundle(bundle, key=settings.bundle_key).fingerprint
    except BundleError as error:
        raise StartError(str(error)) from error
    threads = settings.threads or (1 if on == "ray" else 0)
    changed = {"bundle": bundle, "cache": cache, "threads": threads}
    given = settings.model_copy(update=changed)
    with TemporaryDirectory(prefix="marmot-") as folder, bar("backfill") as advance:
        parts = split_events(events, Path(folder), least_parts=PARTS)
        journal = None
        if resume is not None:
            count = len(parts.files)
            work = {"what": "backfill", "bundle": fingerprint, "parts": count}
            work |= {"events": digest(events), "cache": without_password(cache)}
            journal = Journal(resume, work)
        recording = Recording(given.model_dump(), parts.tasks)
        done = spread(
            record_part,
            recording,
            (file.read_bytes() for file in parts.files),
            len(parts.files),
            on=on,
            journal=journal,
            advance=advance,
        )
    statuses: Counter[str] = Counter()
    for each in done:
        statuses.update(each["statuses"])
    users, count = sum(each["users"] for each in done), sum(each["events"] for each in done)
    return Backfilled(users, count, dict(sorted(statuses.items())))
