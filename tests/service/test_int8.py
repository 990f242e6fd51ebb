"""`MARMOT_COMPUTE=int8`: the same laws by int8's tolerance, and the same answer each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import load_bundle
from models.spec import PROJECTED_INT8
from service.batcher import Batcher
from service.engine import Engine
from service.errors import StartError
from service.house import make_model
from service.registry import Model
from service.selftest import self_test
from service.settings import read_settings
from tests.bundles import make_bundle
from tests.servers import Running
from tests.service.test_rank import COMPANY, ITEMS, NOW, events_of, inline, likes

LAW = 2e-2  # law 1 for int8


@pytest.fixture
def one_head(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "one", heads=1)


@pytest.fixture(params=[256, 0], ids=["near", "nothing near"])
def int8(request: pytest.FixtureRequest, serve: Callable[..., Running], one_head: Path) -> Running:
    return serve(bundle=one_head, compute="int8", near_mib=request.param)


def test_every_answer_is_alike(int8: Running) -> None:
    """The first, later ones, and of a history sent along: all ranked in 8 bits."""
    events = events_of("u", 40)
    int8.post(*events)
    before = Counter(int8.runs)
    answers = [int8.rank("u", ITEMS, timestamp=NOW) for _ in range(3)]
    sent = int8.rank("u", ITEMS, timestamp=NOW, history=inline(events))
    for answer in (*answers, sent):
        assert np.abs(likes(answer) - likes(answers[0])).max() <= COMPANY
    assert int8.runs["projected_int8"] == before["projected_int8"] + 4
    assert int8.runs["rank"] == before["rank"]


def test_cached_equals_full(
    int8: Running, serve: Callable[..., Running], one_head: Path, tmp_path: Path
) -> None:
    """Within int8's law of what float32 says, event by event; a user without any, too."""
    exact = serve(bundle=one_head, cache=f"lmdb:{tmp_path}/exact")
    events = events_of("u", 30)
    for count, event in enumerate(events, start=1):
        int8.post(event)
        if count % 7 == 1:
            found = int8.rank("u", ITEMS, timestamp=NOW)
            full = exact.rank("u", ITEMS, timestamp=NOW, history=inline(events[:count]))
            assert found["cache"]["state"] == "hit"
            assert np.abs(likes(found) - likes(full)).max() <= LAW
    cold = [running.rank("nobody", ITEMS, timestamp=NOW) for running in (int8, exact)]
    assert np.abs(likes(cold[0]) - likes(cold[1])).max() <= LAW


def test_company_changes_nothing(int8: Running) -> None:
    """A candidate alone scores as it does among others."""
    int8.post(*events_of("u", 20))
    together = likes(int8.rank("u", ITEMS, timestamp=NOW))
    for place in (0, 11, len(ITEMS) - 1):
        alone = likes(int8.rank("u", [ITEMS[place]], timestamp=NOW))
        assert abs(alone[0] - together[place]) <= COMPANY


def test_the_sampled_truth_knows_the_law(int8: Running) -> None:
    """What differs from a full computation by less than int8's law is no alarm."""
    assert int8.house.registry.active.tolerance == LAW


def test_a_bundle_without_such_graphs_is_refused(tiny_bundle: Path) -> None:
    """One clear sentence instead of another arithmetic than was asked for."""
    settings = read_settings(bundle=tiny_bundle, compute="int8")
    with pytest.raises(StartError, match="int8 is for bundles of one head"):
        make_model(settings, tiny_bundle)


def test_float32_is_told_to_keep_its_own_law(serve: Callable[..., Running], one_head: Path) -> None:
    """The same bundle without the setting is ranked in float32."""
    running = serve(bundle=one_head)
    assert running.house.registry.active.tolerance == 1e-4
    running.post(*events_of("u", 5))
    for _ in range(3):
        running.rank("u", ITEMS, timestamp=NOW)
    assert not {"project_int8", "projected_int8"} & running.runs.keys()


class SaturatedEngine(Engine):
    """An engine on a processor whose integer products saturate."""

    def run(self, graph: str, feed: Any) -> dict[str, Any]:
        outputs = super().run(graph, feed)
        if graph == PROJECTED_INT8[1]:
            outputs = {name: 0.5 * array for name, array in outputs.items()}
        return outputs


@pytest.mark.parametrize(("kind", "is_refused"), [(Engine, False), (SaturatedEngine, True)])
async def test_a_processor_that_cannot_is_refused(
    kind: type[Engine], one_head: Path, *, is_refused: bool
) -> None:
    """The start-up self-test compares with float32 on the processor that will rank."""
    bundle = load_bundle(one_head)
    engine = kind(bundle, also=PROJECTED_INT8)
    refused = pytest.raises(StartError, match="scores in int8 differ from float32's")
    try:
        with refused if is_refused else nullcontext():
            await self_test(Model.of(bundle, engine, Batcher(engine)))
    finally:
        engine.close()
