"""Law 6: several models on one store, each true to itself whoever wrote last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.open import open_cache
from service.caller import Caller
from service.events import to_event
from service.house import House
from service.schemas import parse_rank
from service.settings import read_settings
from service.timings import Timings
from tests.bundles import make_bundle
from tests.laws.test_small_models import histories, moments, of
from tests.laws.world import CACHED, CANDIDATES, Posted, reference, scores_of

KEEP = 1_000


@dataclass(frozen=True)
class Tenant:
    """One model on the shared store."""

    house: House
    bundle: Path

    async def post(self, user_id: str, events: list[Posted]) -> None:
        sent = [{name: event[name] for name in event if name != "user_id"} for event in events]
        parsed = [to_event(event) for event in sent]  # type: ignore[arg-type]
        await self.house.recorder.record(self.house.registry.active, user_id, parsed, Timings())

    async def check(self, user_id: str, events: list[Posted], timestamp: int) -> None:
        asked = {"user_id": user_id, "candidates": CANDIDATES, "timestamp": timestamp}
        request = parse_rank(orjson.dumps(asked), self.house.limits)
        answer = await self.house.ranker.rank(request, Caller(), Timings())
        assert answer["degraded"] == []
        expected = reference(self.bundle, events, user_id, CANDIDATES, timestamp)
        allowed = CACHED[self.house.registry.active.spec.cache_dtype]
        assert np.abs(scores_of(answer) - expected).max() <= allowed


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two twins that differ in their weights alone, and models of other shapes."""
    folder = tmp_path_factory.mktemp("tenants")
    shapes: list[dict[str, Any]] = [
        {"seed": 1}, {"seed": 2}, {"depth": 2, "window": 3}, {"cache_dtype": "int8", "depth": 4},
    ]  # fmt: skip
    return [
        make_bundle(folder / str(place), **{"window": 5, "depth": 3, **shape})
        for place, shape in enumerate(shapes)
    ]


@pytest.fixture
async def tenants(models: list[Path], store_url: str) -> AsyncIterator[list[Tenant]]:
    async with AsyncExitStack() as stack:
        cache = await open_cache(store_url, keep=KEEP, timeout_s=20.0)
        stack.push_async_callback(cache.close)
        found = []
        for bundle in models:
            settings_of_one = read_settings(bundle=bundle, cache=store_url, store_fetch_ms=20_000)
            house = House.of(settings_of_one)
            await stack.enter_async_context(house.open(cache))
            found.append(Tenant(house, bundle))
        yield found


numbers = count()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_nothing_is_mixed(tenants: list[Tenant], data: st.DataObject) -> None:
    """Every model equals its own reference, also after late edits made through another one."""
    user, posted = f"user {next(numbers)}", list[Posted]()
    for _ in range(data.draw(st.integers(1, 6))):
        writer = data.draw(st.sampled_from(tenants))
        sent = of(user, data.draw(histories))
        await writer.post(user, sent)
        posted += sent
        moment = data.draw(moments)
        for reader in data.draw(st.lists(st.sampled_from(tenants), max_size=4, unique=True)):
            await reader.check(user, posted, moment)
    for reader in tenants:
        await reader.check(user, posted, 10**9)
