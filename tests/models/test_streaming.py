"""Streaming training: what it learns from, what it leaves in the store, and going on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.layout import Layout
from cache.open import open_cache
from models.blocks import blocks_of
from models.bundle import Vocabulary, load_bundle
from models.checkpoint import CheckpointError
from models.events import EventTable, read_events
from models.marm import Marm
from models.packing import encoded, pack
from models.ranking_model import History
from models.running_start import turned
from models.spec import Spec
from models.stream_course import StreamPlan, run_stream
from models.stream_memory import Coming, Known
from models.stream_start import cold_start
from models.streaming import Streamer, StreamRecipe, lessons
from service.marmot import run
from service.stream_memory import NotOurs
from tests.bundles import TINY, make_bundle, random_model
from tests.servers import flush

RECIPE = StreamRecipe(events_per_batch=32, warmup_steps=5)
SPEC = Spec(**{**TINY, "tasks": ("like",), "depth": 2})


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty users who come and go over 320 events; each likes items of their own parity."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("stream") / "events.csv"
    lines = ["user_id,item_id,timestamp,like"]
    for at in range(320):
        user, item = random.integers(0, 20), random.integers(0, 40)
        lines.append(f"u{user},{item},{1_000 + at // 2},{int((user + item) % 2)}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def table(events: Path) -> EventTable:
    return read_events(events)


def stream(table: EventTable, folder: Path, *, spec: Spec = SPEC, **options: Any) -> Path:
    """Streams into `folder`; the bundle."""
    plan = StreamPlan(f"lmdb:{folder}/cache", head=0.25, checkpoint_events=64, point_events=100)
    told = {name: options.pop(name) for name in plan.__slots__ if name in options}
    run_stream(table, spec, folder / "bundle", {}, replace(plan, **told), recipe=RECIPE, **options)
    return folder / "bundle"


class Stop(Exception):
    """The power went."""


@pytest.fixture(scope="module")
def whole(table: EventTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a stream that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return stream(table, folder, checkpoint=folder / "c.safetensors")


@pytest.mark.parametrize("at", [96, 200])
def test_going_on_gives_the_same_bytes(
    table: EventTable, whole: Path, tmp_path: Path, at: int
) -> None:
    """Interrupted and gone on, a stream leaves the same bundle as without, file by file."""

    def stop(streamer: Streamer) -> None:
        if streamer.events >= at:
            raise Stop

    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        stream(table, tmp_path, checkpoint=checkpoint, on_batch=stop)
    parts = stream(table, tmp_path, checkpoint=checkpoint)
    files = sorted(file.name for file in whole.iterdir())
    assert files == sorted(file.name for file in parts.iterdir())
    for name in files:
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def test_no_label_to_come_counts(table: EventTable, tmp_path: Path) -> None:
    """What the weights are after so many events, priors and factors fitted anew on the way
    included, hangs on no label of a later event."""
    first = np.argsort(table.timestamps, kind="stable")[:170]
    other = replace(table, labels=(1 - table.labels).astype(np.int8))
    other.labels[first] = table.labels[first]
    found = []

    def stop(streamer: Streamer) -> None:
        if streamer.events == 160:
            found.append((streamer.fitted, streamer.model.state_dict()))
            raise Stop

    for name, labels in (("same", table), ("other", other)):
        with pytest.raises(Stop):
            stream(labels, tmp_path / name, holdout=0.0, on_batch=stop)
    (fitted, same), (_, other_weights) = found
    assert fitted == 160  # no longer the first quarter
    for name, weight in same.items():
        assert torch.equal(weight, other_weights[name]), name


def test_items_fitted_anew_keep_what_was_learned(table: EventTable) -> None:
    """A fit to more events moves what the last one said, and leaves what was learned beside it;
    factors lie as they did, whichever way round a factorisation comes out."""
    first = np.zeros(len(table), np.bool_)
    first[np.argsort(table.timestamps, kind="stable")[:200]] = True
    model, running = cold_start(table, first, SPEC, table.item_ids, 0)
    items, size = running.factors.shape
    everything = torch.arange(len(model.expectation))
    with torch.no_grad():
        model.embedding.fit(model.embedding(everything) + 0.5, torch.ones(len(everything)))
    running.refit((model,), table, 0)
    learned = model.embedding(everything)[:items, :size] - running.factors
    assert learned.detach().numpy() == pytest.approx(0.5, abs=1e-5)
    mirror = np.diag([-1.0, *[1.0] * (size - 1)])
    factors, met = running.factors.numpy(), np.ones(items)
    assert turned(factors @ mirror, factors, met) == pytest.approx(factors)
    running.refit((model,), table, 0)
    assert running.factors.numpy() == pytest.approx(factors, abs=1e-6)


def test_a_share_of_the_labels_is_told(table: EventTable) -> None:
    """`--sample` hides the others from all that learns, the same ones for the same seed."""
    told = lessons(table, 0.5, 0).labels
    assert 0.4 < (told >= 0).mean() < 0.6
    assert np.array_equal(told[told >= 0], table.labels[told >= 0])
    assert np.array_equal(told, lessons(table, 0.5, 0).labels)
    assert lessons(table, 1.0, 0) is table


def test_another_stream_is_refused(table: EventTable, whole: Path, tmp_path: Path) -> None:
    """A checkpoint of another seed, or no checkpoint at all, is refused with what differs."""
    checkpoint = whole.parent / "c.safetensors"
    with pytest.raises(CheckpointError, match="another stream: seed differ"):
        stream(table, tmp_path, checkpoint=checkpoint, seed=1)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        stream(table, tmp_path / "b", checkpoint=whole / "manifest.json")
    with pytest.raises(CheckpointError, match="has users already"):
        stream(table, tmp_path / "c", cache=f"lmdb:{whole.parent}/cache")


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("dtype", "where"), [("float32", ""), ("float32", "like"), ("int8", "")])
def test_packed_equals_apart(depth: int, dtype: str, where: str) -> None:
    """Users of one mini-batch get what each gets alone: scores and records of the whole timeline.

    The history's records are those that the model made before, as the cache holds them.
    """
    shape = {**TINY, "tasks": ("like",), "depth": depth, "history_where": where}
    spec = Spec(**shape, cache_dtype=dtype)
    model = random_model(spec)
    assert isinstance(model, Marm)
    random = np.random.default_rng(0)
    vocabulary = Vocabulary([str(n) for n in range(60)], [None] * 60, 4)
    known, coming, apart = [], [], []
    for user, (old, new) in enumerate([(0, 3), (5, 1), (20, 40), (8, 33)]):
        n = old + new
        items, times = random.integers(0, 60, n), np.sort(random.integers(0, 10**6, n))
        labels = random.integers(-1, 2, (n, 1)).astype(np.int8)
        columns = [torch.from_numpy(part)[None] for part in (items, times, labels)]
        with torch.no_grad():
            records = model.encode(*columns)[0].numpy()
            ends = torch.arange(n)[None]
            logits = model.forward_full(*columns, ends, columns[1])[0, old:]
        ids = [str(item) for item in items]
        rows = encoded(records[:old], spec)
        known.append(Known(ids[:old], times[:old], labels[:old], rows, np.ones(old, np.bool_)))
        coming.append(Coming(f"u{user}", ids[old:], times[old:], labels[old:], labels[old:]))
        apart.append((logits.numpy(), records[old:]))
    packed = pack(coming, known, vocabulary, spec, random=random, longest_session=1)
    with torch.no_grad():
        together = model.forward_packed(packed.history, packed.missed, packed.new, packed.blocks)
    allowed = 1e-4 if dtype == "float32" else 5e-2
    for found, expected in zip(
        together, map(np.concatenate, zip(*apart, strict=True)), strict=True
    ):
        np.testing.assert_allclose(found.numpy(), expected, atol=allowed)


def test_missed_records_are_not_seen() -> None:
    """Where a record is missing, what stands in its place moves no score, and nothing is learned
    through the records that are there."""
    spec = replace(SPEC, depth=3)
    model = random_model(spec)
    assert isinstance(model, Marm)
    blocks = blocks_of(
        np.array([6]), np.array([2]), np.array([0, 0]), np.arange(6), np.arange(6, 8), spec.window
    )
    items, none = torch.arange(8), torch.zeros(8, 1, dtype=torch.int8)
    records = torch.randn(6, 2, spec.width, generator=torch.Generator().manual_seed(0))
    new = History(items[6:], items[6:], none[6:], records[:0])
    missed = torch.tensor([True] * 3 + [False] * 3)

    def logits(records: torch.Tensor) -> torch.Tensor:
        history = History(items[:6], items[:6], none[:6], records)
        return model.forward_packed(history, missed, new, blocks)[0]

    other, seen = records.clone(), records.clone()
    other[:3], seen[3:] = 9.0, 9.0
    assert torch.equal(logits(records), logits(other))
    assert not torch.equal(logits(records), logits(seen))
    logits(records).sum().backward()
    assert records.grad is None


def test_what_the_store_has_is_what_the_model_made(
    table: EventTable, whole: Path, redis_server: Any, tmp_path: Path
) -> None:
    """Every event before the holdout is in the store with a record, the same in LMDB and Redis."""
    folder = whole.parent
    seen = table.take(~table.is_held_out(0.1))

    async def rows(url: str) -> dict[str, Any]:
        cache = await open_cache(url, timeout_s=20.0)
        found = {}
        try:
            note = json.loads(await cache.note("lineages"))
            layout = Layout(note["stream"][-1][0], SPEC.row, SPEC.reach)
            for user, user_id in enumerate(table.user_ids):
                read = await cache.fetch(user_id, limit=1_000, layout=layout)
                assert len(read.timeline) == seen.counts[user]
                assert read.valid[-SPEC.window :].all()
                found[user_id] = read.rows[read.valid].tobytes()
        finally:
            await cache.close()
        return found

    stream(table, tmp_path / "lmdb", lineage="stream")
    url = redis_server.url
    flush(url)
    stream(table, tmp_path / "redis", lineage="stream", cache=url)
    assert asyncio.run(rows(f"lmdb:{tmp_path}/lmdb/cache")) == asyncio.run(rows(url))
    assert load_bundle(folder / "bundle").lineage is None


def test_warm(table: EventTable, tmp_path: Path) -> None:
    """A stream goes on from a bundle, with new items behind those it knows, and says so; a store
    with events that are not before the stream's is refused."""
    base = load_bundle(make_bundle(tmp_path / "base", depth=2, tasks=("like",)))
    bundle = stream(
        table,
        tmp_path,
        base=base,
        bundles=tmp_path / "all",
        curve=tmp_path / "curve",
        spec=base.spec,
    )
    warm = load_bundle(bundle)
    assert warm.vocabulary.ids[: len(base.vocabulary)] == base.vocabulary.ids
    assert warm.manifest["trained_on"]["stream"]["from"] == base.fingerprint
    kept = [load_bundle(path).fingerprint for path in (tmp_path / "all").iterdir()]
    assert len({*kept, warm.fingerprint, base.fingerprint}) == len(kept) + 2 > 3
    curve = (tmp_path / "curve" / "curve.csv").read_text().splitlines()
    assert curve[0] == "events,users,auc,gauc"
    assert (tmp_path / "curve" / "curve.png").stat().st_size > 1_000
    with pytest.raises(NotOurs, match="not before those of the stream"):
        stream(table, tmp_path, base=base, spec=base.spec)


def test_command(events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`marmot train --stream` tells the curve, the traffic and the bundle."""
    line = f"train --stream --events {events} --cache lmdb:{tmp_path}/c --out {tmp_path}/b"
    sizes = "--depth 2 --window 8 --width 16 --heads 2 --sample 0.5 --no-refit --json"
    assert run([*line.split(), *sizes.split()]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fingerprint"] == load_bundle(tmp_path / "b").fingerprint
    assert told["curve"][-1]["events"] > 0
    assert told["traffic"]["writes"] > 0
    assert run(["train", "--events", str(events), "--out", "o", "--stream"]) == 2
    assert "--stream takes --cache" in capsys.readouterr().err
    assert run([*line.split(), "--depth", "1"]) == 2
    assert "two layers or more" in capsys.readouterr().err
