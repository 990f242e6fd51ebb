"""Sampled answers are computed again in full; what the store spoiled in silence shows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.codec import encode_rows, rows_decoder
from cache.timeline import Event
from service import truth
from service.caller import Caller
from service.chores import Chores
from service.house import open_model, open_store
from service.metrics import Metrics
from service.ranker import Ranker
from service.recorder import Recorder
from service.registry import Registry
from service.schemas import Limits, parse_rank
from service.settings import read_settings
from service.timings import Timings
from service.truth import Answered, Truth
from tests.stored import cells, is_record, put


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that a busy machine holds up is not given up."""
    monkeypatch.setattr(truth, "PATIENCE_S", 60.0)


ALWAYS = {"truth_share": 1.0, "near_mib": 0}
CANDIDATES = list(range(20))


def results(running: Any) -> dict[str, int]:
    """How many checks came to what."""
    told = running.client.get("/metrics").text
    found = re.findall(r'marmot_truth_checks_total\{result="(\w+)"\} (\S+)', told)
    return {result: int(float(count)) for result, count in found}


def largest_sum(running: Any) -> float:
    told = running.client.get("/metrics").text
    return float(re.findall(r"marmot_truth_difference_sum (\S+)", told)[0])


def spoil(running: Any, user: str) -> None:
    """Other numbers in every stored row, sealed as if they were right."""
    layout = running.house.registry.active.layout
    for cell, value in cells(running).items():
        if not is_record(cell):
            continue
        found = rows_decoder(user.encode(), layout)(value)
        rows = np.frombuffer(found.rows, layout.row).copy()
        for name in layout.row.names:
            rows[name] = np.roll(rows[name], 1, axis=-1)
        hashes = np.frombuffer(found.hashes, np.uint32)
        sealed = encode_rows(
            user.encode(), layout, hashes, rows, epoch=found.epoch,
            written_at_s=found.written_at_s, expires_at_s=found.expires_at_s,
        )  # fmt: skip
        put(running, cell, sealed)


@pytest.mark.parametrize(
    "running", [(store, ALWAYS) for store in ("lmdb", "redis")], indirect=True, ids=str
)
def test_spoiled_records_show(running: Any, until: Callable[..., Any]) -> None:
    """Answers are true to 1e-4; numbers that were changed under a good checksum are told."""
    running.post(
        *({"user_id": "u", "item_id": at % 50, "timestamp": at, "feedback": {"like": at % 2}}
          for at in range(70))
    )  # fmt: skip
    assert running.rank("u", CANDIDATES, timestamp=99)["cache"]["state"] == "hit"
    until(lambda: results(running) == {"equal": 1})
    assert largest_sum(running) <= 1e-4
    spoil(running, "u")
    answer = running.rank("u", CANDIDATES, timestamp=99)
    assert (answer["cache"]["state"], answer["degraded"]) == ("hit", [])
    until(lambda: results(running) == {"equal": 1, "different": 1})
    assert largest_sum(running) > 1e-3


def test_only_cached_answers_are_checked(running: Any) -> None:
    """Cold and inline answers hold nothing that could be untrue; without a share, none is."""
    running.rank("nobody", CANDIDATES)
    running.rank("nobody", CANDIDATES, history=[{"item_id": 1, "timestamp": 1}])
    assert results(running) == {}


class Checked:
    """A ranker and a recorder over a real store, and the truth about their answers."""

    def __init__(self, model: Any, cache: Any) -> None:
        self.model, self.cache = model, cache
        self.chores = Chores()
        self.said: list[tuple[str, float | None]] = []
        self.truth = Truth(cache, self.chores, lambda *said: self.said.append(said), share=1.0)
        registry = Registry()
        registry.add(model)
        self.ranker = Ranker(cache, registry, self.chores, Metrics(), truth=self.truth)
        self.recorder = Recorder(cache)

    async def post(self, *times: int) -> None:
        events = [Event(str(at % 50), at) for at in times]
        await self.recorder.record(self.model, "u", events, Timings())

    async def rank(self, timestamp: int) -> dict[str, Any]:
        body = b'{"user_id": "u", "candidates": [1, 2, 3], "timestamp": %d}' % timestamp
        return await self.ranker.rank(parse_rank(body, Limits()), Caller(), Timings())

    async def answered(self, timestamp: int) -> Answered:
        answer = await self.rank(timestamp)
        await self.chores.close()
        scores = np.stack(list(answer["scores"].values()), axis=1)
        rows = self.model.lexicon.look_up([1, 2, 3]).rows
        version = answer["cache"]["version"]
        return Answered(self.model, "u", timestamp, version, rows, scores)


@pytest.fixture
async def checked(tiny_bundle: Path, tmp_path: Path) -> AsyncIterator[Checked]:
    settings = read_settings(bundle=tiny_bundle, cache=f"lmdb:{tmp_path}/cache", keep=40)
    async with AsyncExitStack() as stack:
        model = open_model(settings, stack)
        cache = await open_store(settings, model)
        stack.push_async_callback(cache.close)
        yield Checked(model, cache)


async def test_who_was_written_meanwhile_is_not_compared(checked: Checked) -> None:
    """Another version is another timeline: nothing is said about the answer."""
    await checked.post(*range(20))
    answered = await checked.answered(99)
    assert (await checked.truth.compare(answered))[0] == "equal"
    await checked.post(20)
    assert await checked.truth.compare(answered) == ("overtaken", None)


async def test_a_busy_house_checks_nothing(checked: Checked) -> None:
    """While a run is under way a check is dropped, not queued."""
    await checked.post(*range(20))
    answered = await checked.answered(99)
    ranking = asyncio.ensure_future(checked.rank(99))
    async with asyncio.timeout(10):
        while not checked.model.batcher.is_busy:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
    runs = dict(checked.model.engine.runs)
    assert await checked.truth.compare(answered) == ("busy", None)
    assert checked.model.engine.runs["encode"] == runs["encode"]
    await ranking


async def test_what_was_trimmed_cannot_be_checked(checked: Checked) -> None:
    """Records reach back as far as ids once did; where the ids are gone nothing is compared."""
    await checked.post(*range(60))
    early = await checked.answered(30)
    assert (await checked.truth.compare(early)) == ("trimmed", None)


async def test_a_score_that_is_no_number_differs(checked: Checked) -> None:
    """NaN is different from every score."""
    await checked.post(*range(20))
    answered = await checked.answered(99)
    broken = replace(answered, scores=np.full_like(answered.scores, np.nan))
    assert await checked.truth.compare(broken) == ("different", 1.0)
