"""Summaries as they are served: kept up to date, made again, told when behind, handed out."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.chunk import CHUNK_EVENTS
from cache.timeline import Event
from service import summaries
from service.house import open_model, open_store
from service.settings import read_settings
from service.summaries import refresh
from tests.bundles import make_bundle
from tests.laws.world import CANDIDATES, Posted, reference, scores_of
from tests.servers import Running, wait_until
from tests.stored import cells, drop, is_record, put

STEP, NOW, FLOAT32 = 4, 1_000_000, 1e-4
Serve = Callable[..., Running]


@pytest.fixture(scope="session")
def vista(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vista") / "bundle"
    return make_bundle(
        folder, family="vista", depth=2, window=6, summary=4, refresh_events=STEP, history=2_000
    )


def shown(user_id: str, count: int, start: int = 0) -> list[Posted]:
    return [
        {"user_id": user_id, "item_id": place * 7 % 70, "timestamp": 10 * place,
         "feedback": {"like": place % 2}}
        for place in range(start, start + count)
    ]  # fmt: skip


def check(running: Running, bundle: Path, user: str, events: list[Posted], at: int = NOW) -> Any:
    answer = running.rank(user, CANDIDATES, timestamp=at)
    assert answer["degraded"] == []
    expected = reference(bundle, events, user, CANDIDATES, at)
    assert np.abs(scores_of(answer) - expected).max() <= FLOAT32
    return answer["cache"]


def stored(running: Running) -> dict[Any, bytes]:
    return {cell: value for cell, value in cells(running).items() if is_record(cell)}


def test_a_hit_reads_a_summary(vista: Path, serve: Serve) -> None:
    """However the events came, a rank request runs nothing but `rank`, and tells what it reads."""
    running = serve(bundle=vista)
    for count, start in ((3, 0), (1, 3), (30, 4), (5, 34)):
        running.post(*shown("u", count, start))
        before = running.runs.get("summarise", 0)
        told = check(running, vista, "u", shown("u", start + count))
        covered = (start + count) // STEP * STEP
        assert told["state"] == "hit"
        assert told["recomputed"] == 0
        assert told["summary"] == {"covered": covered, "unseen": start + count - covered}
        assert running.runs.get("summarise", 0) == before


def test_it_is_made_again_from_the_timeline(
    vista: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an eviction, damage, late events, and for the past: page by page, and kept."""
    monkeypatch.setattr(summaries, "PAGE", 8)
    running, events = serve(bundle=vista, near_mib=0), shown("u", 101)
    running.post(*events)
    (cell,) = stored(running)
    drop(running, cell)
    told = check(running, vista, "u", events)
    assert (told["state"], told["recomputed"]) == ("partial", 100)
    wait_until(lambda: stored(running))
    assert check(running, vista, "u", events)["state"] == "hit"
    put(running, cell, stored(running)[cell][:-1] + b"?")
    assert check(running, vista, "u", events)["state"] == "partial"
    late = [{**events[0], "timestamp": 15, "feedback": {"like": 1}}]
    running.post(*late)
    check(running, vista, "u", events + late)
    for moment in (0, 35, 500, 995):
        check(running, vista, "u", events + late, at=moment)


def test_one_that_takes_long_is_made_behind_the_answer(
    vista: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says so, and how much was not seen; soon another one is exact."""
    monkeypatch.setattr(summaries, "AT_ONCE", 50)
    monkeypatch.setattr(summaries, "PAGE", 8)
    running, events = serve(bundle=vista), shown("u", 101)
    running.post(*events)
    for cell in stored(running):
        drop(running, cell)
    answer = running.rank("u", CANDIDATES, timestamp=NOW)
    assert answer["degraded"] == ["summary-behind"]
    assert answer["cache"]["summary"] == {"covered": 0, "unseen": 101}

    def is_done() -> bool:
        """No longer behind, nor short of so little that a request makes it by itself."""
        again = running.rank("u", CANDIDATES, timestamp=NOW)
        return again["cache"]["state"] == "hit" and not again["degraded"]

    wait_until(is_done)
    assert check(running, vista, "u", events)["state"] == "hit"


def test_an_interrupted_refresh_is_gone_on_with(
    vista: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made before it ended is kept, is true, and is not made again."""
    monkeypatch.setattr(summaries, "PAGE", 8)
    running, events = serve(bundle=vista), shown("u", 101)
    running.post(*events)
    for cell in stored(running):
        drop(running, cell)
    house = running.house
    model, turn, turned = house.registry.active, summaries._turn_page, []

    async def ends_early(*arguments: Any) -> bool:
        turned.append(None)
        return len(turned) > 3 or await turn(*arguments)

    def refreshed() -> None:
        asyncio.run_coroutine_threadsafe(
            refresh(house.cache, model, "u"), house_loop(running)
        ).result(30)

    monkeypatch.setattr(summaries, "_turn_page", ends_early)
    refreshed()
    (half,) = stored(running).values()
    covered = int.from_bytes(half[4:8], "little")
    assert 0 < covered < 100
    monkeypatch.setattr(summaries, "_turn_page", turn)
    refreshed()
    assert check(running, vista, "u", events)["summary"]["covered"] == 100


def house_loop(running: Running) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = running._server.servers[0].get_loop()
    return loop


def test_refreshing_can_wait(vista: Path, serve: Serve) -> None:
    """With --refresh-s answers go by an older summary and say so, with what it has not seen."""
    running, events = serve(bundle=vista, refresh_s=3_600.0), shown("u", 30)
    running.post(*events[:9])
    assert check(running, vista, "u", events[:9])["summary"] == {"covered": 8, "unseen": 1}
    running.post(*events[9:11])
    check(running, vista, "u", events[:11])
    running.post(*events[11:])
    answer = running.rank("u", CANDIDATES, timestamp=NOW)
    assert answer["degraded"] == ["summary-behind"]
    assert answer["cache"]["summary"] == {"covered": 8, "unseen": 22}


def test_more_than_history_is_trimmed(vista: Path, serve: Serve) -> None:
    """A timeline that is longer than what a summary is exact for is told as such."""
    running = serve(bundle=vista)
    for start in range(0, 2_100, 700):
        running.post(*shown("u", 700, start))
    answer = running.rank("u", CANDIDATES, timestamp=NOW)
    assert answer["degraded"] == ["history-trimmed"]


def test_backfill_equals_posting(
    cli: Callable[..., Any], vista: Path, serve: Serve, tmp_path: Path
) -> None:
    """The same summary, to the last bit but rounding, and twice changes nothing."""
    events = shown("u", 97)
    columns = {name: [event[name] for event in events] for name in ("user_id", "timestamp")}
    columns["item_id"] = [str(event["item_id"]) for event in events]
    columns["like"] = [event["feedback"]["like"] for event in events]
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    store = f"lmdb:{tmp_path}/filled"
    for _ in range(2):
        code, _, err = cli(
            "backfill", "--bundle", vista, "--events", tmp_path / "events.parquet", "--cache", store
        )
        assert code == 0, err
    filled, posted = serve(bundle=vista, cache=store), serve(bundle=vista)
    for event in events:
        posted.post(event)
    told = [running.client.get("/v1/users/u/summary").json() for running in (filled, posted)]
    assert told[0]["covered"] == told[1]["covered"] == 96
    one, two = (np.frombuffer(base64.b64decode(each["tokens"]), "<f4") for each in told)
    assert np.abs(one - two).max() <= FLOAT32
    assert check(filled, vista, "u", events)["state"] == "hit"


def test_the_summary_is_handed_out(vista: Path, serve: Serve) -> None:
    """Tokens as base64 of float32, and nothing where there are too few events for one."""
    running = serve(bundle=vista)
    empty = running.client.get("/v1/users/nobody/summary").json()
    assert (empty["covered"], empty["tokens"], empty["version"]) == (0, None, 0)
    running.post(*shown("u", 10))
    told = running.client.get("/v1/users/u/summary").json()
    assert (told["covered"], told["unseen"], told["is_behind"]) == (8, 2, False)
    tokens = np.frombuffer(base64.b64decode(told["tokens"]), "<f4").reshape(told["shape"])
    assert tokens.shape == (4, 16)
    assert np.isfinite(tokens).all()


def test_other_families_have_none(serve: Serve) -> None:
    """One clear sentence, as a problem."""
    answer = serve().client.get("/v1/users/u/summary")
    assert answer.status_code == 422
    assert answer.json()["detail"] == "The model of the family marm keeps no summaries"


def test_every_users_tokens_are_exported(
    cli: Callable[..., Any], vista: Path, serve: Serve, tmp_path: Path
) -> None:
    """Those that the route gives, without the users who have too few events."""
    running = serve(bundle=vista)
    running.post(*shown("a", 9), *shown("b:é", 30), *shown("c", 3))
    told = {
        user: running.client.get(f"/v1/users/{user}/summary").json() for user in ("a", "b%3A%C3%A9")
    }
    running.stop()
    code, out, err = cli(
        "export-state", "--bundle", vista, "--cache", running.house.settings.cache,
        "--out", tmp_path / "state", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["users"] == 2
    with np.load(tmp_path / "state" / "state-00000.npz", allow_pickle=False) as state:
        assert state["user_ids"].tolist() == ["a", "b:é"]
        assert state["covered"].tolist() == [8, 28]
        for tokens, answer in zip(state["tokens"], told.values(), strict=True):
            assert base64.b64encode(tokens.tobytes()).decode() == answer["tokens"]


def test_explain_leaves_events_out_of_the_summary(vista: Path, serve: Serve) -> None:
    """An effect is the score with an event minus the score without it, summaries made anew."""
    running, events = serve(bundle=vista), shown("u", 11)
    running.post(*events)
    answer = running.client.post(
        "/v1/explain",
        json={"user_id": "u", "candidates": [1, 2], "timestamp": NOW, "events": 11},
    ).json()
    with_it = np.array(answer["scores"]["like"])
    for told in answer["events"]:
        left = [event for event in events if event["timestamp"] != told["timestamp"]]
        without = reference(vista, left, "u", [1, 2], NOW)[:, 0]
        assert np.abs(with_it - without - told["effect"]["like"]).max() <= FLOAT32


async def test_an_event_reads_as_much_of_a_long_history_as_of_a_short(
    vista: Path, tmp_path: Path
) -> None:
    """What a write reads of a user is bounded: the newest events, in whole chunks."""
    async with AsyncExitStack() as stack:
        options = read_settings(bundle=vista, cache=f"lmdb:{tmp_path}/cache")
        model = open_model(options, stack)
        cache = await open_store(options, model)
        stack.push_async_callback(cache.close)
        events = [Event(str(place % 60), place) for place in range(2_000)]
        await cache.append((await cache.fetch("u", limit=1, around=events)).merge(events))
        snapshot = await cache.fetch(
            "u", limit=model.spec.rewrites, layout=model.layout, around=[Event("1", 3_000)]
        )
        assert len(snapshot.stored.timeline) < model.spec.rewrites + 2 * CHUNK_EVENTS
