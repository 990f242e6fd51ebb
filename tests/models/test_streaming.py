"""Streaming training: what it learns from, what it leaves in the store, and going on from a stop."""

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
from models.spec import Spec
from models.stream_course import StreamPlan, run_stream
from models.stream_memory import Coming, Known
from models.streaming import Streamer, StreamRecipe
from service.marmot import run
from service.stream_memory import NotOurs, open_memory
from tests.bundles import TINY, make_bundle, random_model

RECIPE = StreamRecipe(events_per_batch=32, warmup_steps=5)
SPEC = Spec(**{**TINY, "tasks": ("like",)})


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty users who come and go over 600 events; each likes items of their own parity."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("stream") / "events.csv"
    lines = ["user_id,item_id,timestamp,like"]
    for at in range(600):
        user, item = random.integers(0, 20), random.integers(0, 40)
        lines.append(f"u{user},{item},{1_000 + at // 2},{int((user + item) % 2)}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def table(events: Path) -> EventTable:
    return read_events(events)


def stream(table: EventTable, folder: Path, **options: Any) -> Path:
    """Streams into `folder`; the bundle."""
    plan = StreamPlan(f"lmdb:{folder}/cache", checkpoint_events=128, point_events=100)
    plan = replace(plan, **{n: options.pop(n) for n in ("cache", "checkpoint", "base", "head", "bundles", "curve") if n in options})  # fmt: skip  # noqa: E501
    run_stream(table, SPEC, folder / "bundle", {}, plan, **{"recipe": RECIPE, **options})
    return folder / "bundle"


class Stop(Exception):
    """The power went."""


@pytest.mark.parametrize("at", [100, 300, 440])
def test_going_on_gives_the_same_bytes(table: EventTable, tmp_path: Path, at: int) -> None:
    """Interrupted and gone on from its checkpoint, a stream leaves the same bundle, file by file."""

    def stop(streamer: Streamer) -> None:
        if streamer.events >= at:
            raise Stop

    whole = stream(table, tmp_path / "whole", checkpoint=tmp_path / "whole.safetensors")
    checkpoint = tmp_path / "parts.safetensors"
    with pytest.raises(Stop):
        stream(table, tmp_path / "parts", checkpoint=checkpoint, on_batch=stop)
    parts = stream(table, tmp_path / "parts", checkpoint=checkpoint)
    files = sorted(file.name for file in whole.iterdir())
    assert files == sorted(file.name for file in parts.iterdir())
    for name in files:
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
