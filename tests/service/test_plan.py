"""`marmot plan`: its arithmetic, its figures against a real Redis, and its simulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from cache.keys import RedisKeys, owner_of
from cache.layout import Layout
from cache.redis_cache import RedisCache
from cache.summary import Summary
from cache.timeline import Event, Mark
from models.spec import Spec
from service.errors import UsageError
from service.footprint import Footprint, size_class
from service.plan import plan
from service.simulation import group_popularity, replay, simulate
from service.wanted import Wanted
from tests.servers import RedisServer, flush

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen on which no table breaks."""
    monkeypatch.setenv("COLUMNS", "160")


def factors(found: dict[str, Any]) -> dict[str, float]:
    return {factor["name"]: factor["value"] for factor in found["factors"]}


def test_the_papers_sixty_terabytes(cli: Cli) -> None:
    """30 million users x 6,000 events x 4 depths x 83 bytes are 60 TB, and each factor says why."""
    paper = ["--users", "30e6", "--window", "6000", "--depth", "4", "--cell-bytes", "83"]
    code, out, _ = cli("plan", *paper, "--json")
    assert code == 0
    *table, line = out.splitlines()
    found = json.loads(line)
    assert found["total_bytes"] == pytest.approx(60e12, rel=0.01)
    assert factors(found)["cells per record"] == 4
    assert all(factor["why"] for factor in found["factors"])
    assert any("59.8 TB" in line for line in table)


def test_a_bundles_own_cell(cli: Cli, tiny_bundle: Path) -> None:
    """With a bundle the cached depths, the kept windows and the timelines are counted."""
    code, out, _ = cli("plan", "--bundle", tiny_bundle, "--users", "1000", "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    counted = factors(found)
    assert (counted["cells per record"], counted["records per user"]) == (2, 16)
    records = 16 * 2 * counted["bytes per cell"]
    timeline = counted["timeline of a user"]
    assert found["total_bytes"] == pytest.approx(1_000 * (records + timeline))


@pytest.mark.parametrize("fields", [{}, {"depth": 3, "width": 16, "heads": 2}, {"depth": 2}])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
async def test_the_footprint_is_redis_own(
    redis_server: RedisServer, dtype: str, fields: dict[str, Any]
) -> None:
    """The formula is within 5% of what a server says that records and timelines take."""
    flush(redis_server.url)
    spec = Spec(cache_dtype=dtype, **fields)
    layout = Layout("f" * 32, spec.row, 1_000)
    cache = RedisCache(redis_server.url, keep=1_000, timeout_s=20)
    footprint = Footprint(spec, id_bytes=6)
    try:
        for count in (100, 320, 1_000):
            user_id = f"user {count}"
            events = [
                Event(f"{place:06}", 893_286_638 + place, {"like": Mark(1, 893_286_638)})
                for place in range(count)
            ]
            snapshot = await cache.fetch(user_id, limit=count, layout=layout, around=events)
            rows = np.zeros(count, spec.row)
            change = snapshot.merge(events).with_rows(rows, np.ones(count, np.bool_))
            await cache.append(change)
            found = taken(redis_server.url, user_id, layout.fingerprint)
            assert footprint.user_bytes(count, count) == pytest.approx(found, rel=0.05)
    finally:
        await cache.close()


def taken(url: str, user_id: str, fingerprint: str) -> int:
    """Bytes of a user's keys."""
    place = RedisKeys(owner_of(user_id))
    with Redis.from_url(url) as store:
        keys = (place.timeline, place.index, place.rows(fingerprint))
        return sum(store.memory_usage(key, samples=0) or 0 for key in keys)


async def test_a_summary_is_redis_own(redis_server: RedisServer) -> None:
    """A summary takes what the formula says, within 5%, whatever its tokens and sums."""
    flush(redis_server.url)
    cache = RedisCache(redis_server.url, keep=1_000, timeout_s=20)
    event = Event("50", 893_286_638, {"like": Mark(1, 893_286_638)})
    try:
        for spec in (Spec(family="vista"), Spec(family="elastic", cache_dtype="int8")):
            layout = Layout("f" * 32, spec.row, spec.reach, None, spec.summary_row)
            user_id = spec.family
            snapshot = await cache.fetch(user_id, limit=1, layout=layout, around=[event])
            await cache.append(snapshot.merge([event]))
            snapshot = await cache.fetch(user_id, limit=1, layout=layout)
            row = np.zeros((), spec.summary_row)
            summary = Summary.upto(snapshot.timeline, 1, row, 1)
            await cache.append(snapshot.merge(()).with_summary(summary))
            with Redis.from_url(redis_server.url) as store:
                key = RedisKeys(owner_of(user_id)).rows(layout.fingerprint)
                found = store.memory_usage(key, samples=0) or 0
            assert Footprint(spec).summary_bytes == pytest.approx(found, rel=0.05)
    finally:
        await cache.close()


def test_a_summary_is_planned(cli: Cli) -> None:
    """One value of a user, timelines as long as told, and the graph that an event runs."""
    code, out, _ = cli("plan", "--family", "vista", "--user-events", "5000", "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    counted, spec = factors(found), Spec(family="vista")
    assert (counted["records of a user"], counted["events per user"]) == (0, 5_000)
    assert counted["summary of a user"] == Footprint(spec).summary_bytes
    whole = counted["summary of a user"] + counted["timeline of a user"]
    assert found["user_bytes"] == pytest.approx(whole)
    assert "summarise.onnx, once for 50 events" in out
    few = plan(Wanted(1, spec, user_events=10))
    assert "summary of a user" not in {factor.name for factor in few.factors}


def test_a_search_is_planned(cli: Cli) -> None:
    """Records of every event are kept, and a request reads those that ten categories find."""
    shape = ["--history", "10000", "--search", "100"]
    code, out, _ = cli("plan", *shape, "--json")
    assert code == 0
    counted = factors(json.loads(out.splitlines()[-1]))
    assert counted["records per user"] == counted["events per user"] == 10_400
    window = factors(plan(Wanted(10**6, Spec())).to_dict())
    assert counted["read per request"] > 10 * window["read per request"]
    assert counted["read per event"] == window["read per event"]
    assert "100 found events for each of 10 categories" in out


@pytest.mark.parametrize("family", ["full", "stca", "din", "sim"])
def test_families_without_a_cache(cli: Cli, family: str) -> None:
    """Timelines are all that lies in the store: there is nothing to simulate, and that is said."""
    search = ["--history", "2000", "--search", "50"] if family == "sim" else []
    code, out, err = cli("plan", "--family", family, *search, "--simulate", "--json")
    assert code == 2
    assert f"the family {family} caches nothing" in out
    assert "nothing but timelines is kept" in err


def test_size_classes() -> None:
    """jemalloc has four sizes between two powers of two, and sixteens below 128."""
    wanted = {1: 16, 100: 112, 128: 128, 129: 160, 5_120: 5_120, 6_500: 7_168, 24_863: 28_672}
    assert {size: size_class(size) for size in wanted} == wanted


def test_replicas_follow_the_bench() -> None:
    """CPU of a request is read off the line through the two measured sizes around it."""
    bench = {
        "shapes": [{"candidates": c, "service_cpu_ms": m} for c, m in ((100, 1.0), (500, 3.0))]
    }
    wanted = Wanted(1, Spec(), events_a_day=0, requests_s=1_000, candidates=300, bench=bench)
    found = plan(wanted)
    cpu = next(factor for factor in found.factors if factor.name == "CPU per request")
    assert cpu.value == pytest.approx(2.0)
    assert found.replicas == 4  # 2 busy cores at half load
    with pytest.raises(UsageError, match="--bench"):
        plan(Wanted(1, Spec(), bench={"shapes": "none"}))


def test_twice_the_users_take_twice_the_memory() -> None:
    """Bytes are linear in users; shards follow; a depth of one caches nothing."""
    one, two = (plan(Wanted(users, Spec(), shard_gib=8)) for users in (10**6, 2 * 10**6))
    assert two.total_bytes == 2 * one.total_bytes
    assert two.shards == pytest.approx(2 * one.shards, abs=1)
    shallow = plan(Wanted(1, Spec(depth=1)))
    assert next(f.value for f in shallow.factors if f.name == "records of a user") == 0


def test_popularity_is_zipfs() -> None:
    """Groups sum to one, fall, and a group of one has its rank's share."""
    found = group_popularity(1_000, 1_000, 1.0)
    assert found.sum() == pytest.approx(1)
    assert (np.diff(found) < 0).all()
    assert found[9] / found[99] == pytest.approx(10, rel=0.01)
    assert np.ptp(group_popularity(1_000, 10, 0.0)) == pytest.approx(0, abs=1e-12)


def test_a_replay_by_hand() -> None:
    """The least recently used goes first; only the second half counts."""
    assert replay([0, 1, 2, 0, 0, 1, 0, 2], [1.0, 1.0, 1.0], 2.0) == 0.5
    assert replay([0, 1, 0, 1], [1.0, 1.0], 2.0) == 1.0
    assert replay([0, 1, 0, 1], [1.0, 1.0], 1.0) == 0.0


def test_more_memory_hits_more_often() -> None:
    """The curve rises, and uneven traffic needs less memory than even traffic."""
    wanted = Wanted(2_000, Spec())
    uneven = [point.hit_rate for point in simulate(wanted, shares=(0.1, 0.5, 1.0))]
    even = [point.hit_rate for point in simulate(wanted, exponent=0.0, shares=(0.1,))]
    assert uneven == sorted(uneven)
    assert uneven[-1] == 1.0
    assert even[0] == pytest.approx(0.1, abs=0.02)
    assert uneven[0] > 2 * even[0]


def test_the_simulation_is_a_table_and_a_picture(cli: Cli, tmp_path: Path) -> None:
    """`--simulate` prints hit rates by memory; the PNG comes where matplotlib is."""
    plot = tmp_path / "plan.png"
    code, out, err = cli("plan", "--users", "5000", "--simulate", "--plot", plot, "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    assert [point["share"] for point in found["simulation"]][-1] == 1.0
    assert "hit rate" in out
    if find_spec("matplotlib"):
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert found["plot"] == str(plot)
    else:
        assert found["plot"] is None
        assert "matplotlib is not installed" in err


def test_a_stage_is_planned_with_its_ranker(cli: Cli, tiny_stages: dict[str, Path]) -> None:
    """It keeps nothing of its own."""
    code, _, err = cli("plan", "--bundle", tiny_stages["prerank"])
    assert code == 2
    assert "reads another model's records" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--users", "1.5"], "--users must be a whole number"),
        (["--bench", "no-such-file"], "no file at no-such-file; `marmot bench --json"),
        (["--window", "20000"], "window must be between"),
        (["--bundle", "no-such-bundle"], "no bundle at"),
        (["--family", "vast"], "family must be one of"),
        (["--search", "10"], "history and search go together"),
        (["--keep", "499"], "--keep 499 is too small: exact rebuilds of this model need 500"),
    ],
)
def test_bad_options_are_told_in_a_sentence(cli: Cli, options: list[str], said: str) -> None:
    """What makes no sense names the option."""
    code, out, err = cli("plan", *options)
    assert code in {1, 2}
    assert out == ""
    assert said in err
