"""`marmot train --stream` from events to bundle: hold out, start, stream, export, measure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bundle import Bundle, Vocabulary, check_target, load_bundle
from models.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from models.course import NothingToLearn
from models.evaluate import measure
from models.events import EventTable
from models.export import export
from models.prequential import Point, write_curve
from models.progress import bar
from models.reference import Reference
from models.spec import Spec, SpecError
from models.stream_memory import Memory, Traffic
from models.stream_start import cold_start, joined, warm_start
from models.streaming import Streamer, StreamRecipe, lessons

#: Opens a memory: (url, spec, fingerprint of the stream's records, of those to begin with).
OpenMemory = Callable[[str, Spec, str, str | None], AbstractContextManager[Memory]]


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How a stream runs, beside what it learns."""

    cache: str  # URL of the store
    base: Bundle | None = None  # a warm start
    head: float = 0.1  # share of the log that a cold start is fitted to
    checkpoint: Path | None = None
    checkpoint_events: int = 10_000
    bundles: Path | None = None  # a bundle of each checkpoint, by its number of events
    curve: Path | None = None
    point_events: int = 5_000  # of a point of the curve


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of it."""

    bundle: Bundle
    curve: list[Point]
    traffic: Traffic


def run_stream(
    table: EventTable,
    spec: Spec,
    out: Path,
    names: dict[str, str],
    plan: StreamPlan,
    *,
    recipe: StreamRecipe | None = None,
    seed: int = 0,
    holdout: float = 0.1,
    name: str = "marmot",
    version: str | None = None,
    lineage: str | None = None,
    on_batch: Callable[[Streamer], None] = lambda _: None,
) -> Streamed:
    """Streams all but the holdout once, in time order, and leaves a verified bundle at `out`.

    Goes on from the plan's checkpoint where there is one. Raises `SpecError`, `NothingToLearn`,
    `BundleError`, `CheckpointError` and what the memory raises.
    """
    check_target(out)
    if not spec.kind.is_cached or not spec.hidden_depths or spec.search:
        raise SpecError(
            "streaming reads cached records: it takes --family marm, two layers or more, no search"
        )
    seen = table.take(~table.is_held_out(holdout)).of_seen_items()
    if not (seen.labels >= 0).any():
        raise NothingToLearn("no event outside the holdout has a label: there is nothing to learn")
    recipe = recipe or StreamRecipe()
    torch.set_flush_denormal(True)
    item_ids = joined(plan.base, seen.item_ids) if plan.base else seen.item_ids
    identity = _identity(seen, spec, item_ids, plan, recipe, seed)
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    elder = plan.base.fingerprint if plan.base else None

    def save(path: Path, streamer: Streamer) -> None:
        metrics = {}
        if holdout:
            reference = Reference(streamer.model, table, item_ids)
            metrics = measure(table, holdout, reference.score_question)
        told = {
            "events": streamer.events,
            "users": int((seen.counts > 0).sum()),
            "items": len(item_ids),
            "holdout": holdout,
            "seed": seed,
            "steps": streamer.step,
            "stream": {"from": elder, "sample": recipe.sample, "miss_rate": recipe.miss_rate},
        }
        export(
            streamer.model, item_ids, [names.get(item_id) for item_id in item_ids], path,
            name=name, version=version, lineage=lineage, trained_on=told, metrics=metrics,
        )  # fmt: skip

    (entry,) = entry_points(group="marmot.memories", name="cache")
    opened: OpenMemory = entry.load()
    with opened(plan.cache, spec, fingerprint, elder) as memory:
        streamer = _begin(seen, spec, item_ids, memory, plan, recipe, seed)
        if plan.checkpoint and plan.checkpoint.exists():
            memory.restore(read_checkpoint(plan.checkpoint, streamer, identity))
        elif not plan.base and not memory.is_empty():
            raise CheckpointError(
                f"{plan.cache} has users already: a cold start takes an empty store, or the "
                "checkpoint of the stream that filled it"
            )
        if lineage:
            memory.join(lineage)
        with bar("streaming") as advance:
            while not streamer.is_done:
                before = streamer.events // plan.checkpoint_events
                streamer.advance()
                if streamer.is_done or streamer.events // plan.checkpoint_events > before:
                    if plan.checkpoint:
                        write_checkpoint(plan.checkpoint, streamer, identity)
                    memory.flush()
                    if plan.bundles and not streamer.is_done:
                        save(plan.bundles / str(streamer.events), streamer)
                advance(streamer.events, len(seen))
                on_batch(streamer)
    save(out, streamer)
    curve = streamer.log.curve()
    if plan.curve and curve:
        write_curve(plan.curve, curve)
    return Streamed(load_bundle(out), curve, memory.traffic)


def _begin(
    seen: EventTable,
    spec: Spec,
    item_ids: list[str],
    memory: Memory,
    plan: StreamPlan,
    recipe: StreamRecipe,
    seed: int,
) -> Streamer:
    head = 0
    if plan.base:
        model, running = warm_start(plan.base, item_ids, seed)
    else:
        head = int(len(seen) * plan.head) // recipe.events_per_batch * recipe.events_per_batch
        first = np.zeros(len(seen), np.bool_)
        first[np.argsort(seen.timestamps, kind="stable")[:head]] = True
        model, running = cold_start(lessons(seen, recipe.sample, seed), first, spec, item_ids, seed)
    vocabulary = Vocabulary(item_ids, [*[None] * len(item_ids)], spec.fallback_rows)
    return Streamer(
        model, running, seen, vocabulary, memory, recipe,
        seed=seed, head=head, every=plan.point_events,
    )  # fmt: skip


def _identity(
    seen: EventTable,
    spec: Spec,
    item_ids: list[str],
    plan: StreamPlan,
    recipe: StreamRecipe,
    seed: int,
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on from; JSON."""
    events = hashlib.sha256()
    for column in (seen.offsets, seen.items, seen.timestamps, seen.labels):
        events.update(column.tobytes())
    for ids in (seen.user_ids, item_ids):
        events.update("\0".join(ids).encode())
    return {
        "events": events.hexdigest(),
        "spec": spec.to_dict(),
        "from": plan.base.fingerprint if plan.base else None,
        "head": plan.head,
        "checkpoint_events": plan.checkpoint_events,
        "point_events": plan.point_events,
        "recipe": asdict(recipe),
        "seed": seed,
    }
