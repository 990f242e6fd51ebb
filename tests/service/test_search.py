"""Search behind the door: what is found, what is read, and what is said where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.spec import Spec
from service.buckets import Buckets
from service.collate import collate, split
from service.features import History
from service.job import Job
from service.library import Library
from service.projections import MOST_KEPT, Projections
from service.shelves import Shelves, Slots
from tests.bundles import ITEMS, make_bundle
from tests.laws.world import World
from tests.servers import Running
from tests.service.test_collate import GRAPH, make_job, outputs_of

laws = settings(deadline=None)
kinds = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(np.array)


@laws
@given(kinds, st.integers(0, 5), st.integers(1, 12))
def test_shelves(known: Any, wanted: int, most: int) -> None:
    """The newest events of the category, then the newest others, in the order of time."""
    places = sorted(range(len(known)), key=lambda place: (known[place] != wanted, -place))[:most]
    assert Shelves(known, most).find(wanted).tolist() == sorted(places)


@laws
@given(kinds)
def test_slots(asked: Any) -> None:
    """Every candidate lies in a row of its own category, and its seat is where it lies."""
    slots = Slots.of(asked)
    assert (asked[slots.places] == slots.categories[:, None]).all()
    assert slots.places[*slots.seats.T].tolist() == [*range(len(asked))]


@laws
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.booleans())
def test_a_job_of_rows(rows: int, candidates: int, records: int, has_buckets: bool) -> None:
    """A job that is a batch by itself is run as it came, and padded only where runs are."""
    alone = [make_job((candidates, records), seed) for seed in range(rows)]
    feed = {name: np.stack([job.feed[name] for job in alone]) for name in alone[0].feed}
    job = Job("rank", feed, alone[0].sizes, rows=rows)
    assert job.cost == sum(one.cost for one in alone)
    buckets = Buckets(records=8, queries=(4, 16), batches=(1, 2, 8)) if has_buckets else None
    collated = collate(GRAPH, [job], buckets)
    (found,) = split(GRAPH, [job], outputs_of(collated), buckets)
    assert (found["scores"][..., 0] == feed["candidates"]).all()
    assert (found["seen"] == feed["timestamps"]).all()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("search")
    bundle = make_bundle(folder / "bundle", history=300, search=6, depth=2, window=4)
    running = Running(bundle=bundle, cache=f"lmdb:{folder / 'cache'}")
    try:
        yield World(running, bundle)
    finally:
        running.stop()


def shown(user: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "user_id": user,
            "item_id": (7 * at) % len(ITEMS),
            "timestamp": 1_000 + 60 * at,
            "feedback": {"like": at % 2},
        }
        for at in range(start, start + count)
    ]


def test_only_what_is_found_is_rebuilt(world: World) -> None:
    """After an eviction a request computes the rows it reads; the next one finds them."""
    user = world.new_user()
    events = shown(user, 400)
    world.running.post(*events)
    assert world.check(user, events, 10**6)["cache"] | {"age_s": 0, "version": 0} == {
        "state": "hit", "records": 300, "recomputed": 0, "version": 0, "age_s": 0,
    }  # fmt: skip
    world.evict(user)
    again = world.new_user()  # whoever is not known here is read from the store
    world.running.post(*shown(again, 400))
    world.evict(again)
    first = world.check(again, shown(again, 400), 10**6)["cache"]
    assert (first["state"], 0 < first["recomputed"] < 200) == ("partial", True)
    assert world.check(again, shown(again, 400), 10**6)["cache"]["state"] == "hit"


def test_a_late_event_far_back(world: World) -> None:
    """What comes late among thousands moves the scores it should, at once and exactly."""
    user = world.new_user()
    events = shown(user, 250)
    world.running.post(*events)
    world.check(user, events, 10**6)
    late = {"user_id": user, "item_id": 3, "timestamp": 4_001, "feedback": {"like": 1}}
    world.running.post(late)
    world.check(user, [*events, late], 10**6)
    label = {**events[100], "feedback": {"like": 1}, "feedback_timestamp": 10**6}
    world.running.post(label)
    world.check(user, [*events, late, label], 10**6)


def test_a_search_is_not_explained(world: World) -> None:
    """What an explanation would show of one window is not what the candidates saw."""
    asked = {"user_id": "u", "candidates": [1], "timestamp": 10**6}
    answer = world.running.client.post("/v1/explain", json=asked)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-model")


def test_a_store_that_keeps_too_little_is_refused(cli: Callable[..., Any], tmp_path: Path) -> None:
    """A store that keeps too few events for the model's search is refused."""
    bundle = make_bundle(tmp_path / "bundle", history=2_000, search=6, depth=2, window=4)
    options = ["--bundle", bundle, "--cache", f"lmdb:{tmp_path / 'cache'}", "--port", "0"]
    code, _, said = cli("serve", *options, "--keep", "1500")
    assert code == 2
    assert "1500" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--history", "50", "--search-by", "category"], "there is no --items file"),
        (["--history", "50", "--search-by", "category", "--items", "names"], "no column of"),
        (["--search", "5"], "--history says in how much"),
        (["--history", "50", "--family", "stca"], "cannot search"),
    ],
)
def test_options_without_sense(
    cli: Callable[..., Any], tmp_path: Path, options: list[str], said: str
) -> None:
    """Options that do not go together end with one sentence and exit code 2."""
    events, names = tmp_path / "events.csv", tmp_path / "names.csv"
    events.write_text("user_id,item_id,timestamp,like\n1,2,3,1\n")
    names.write_text("item_id,name\n2,Two\n")
    options = [str(names) if option == "names" else option for option in options]
    code, out, error = cli("train", "--events", events, "--out", tmp_path / "b", *options)
    assert (code, out) == (2, "")
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("searched_by", ["category", "attention"])
def test_keys_and_values_are_made_once(tmp_path: Path, searched_by: str) -> None:
    """A request runs over what an earlier one has made, until the user has another event."""
    bundle = make_bundle(
        tmp_path / "bundle", history=300, search=6, depth=2, window=4, search_by=searched_by
    )
    running = Running(bundle=bundle, cache=f"lmdb:{tmp_path / 'cache'}")
    try:
        world, events = World(running, bundle), shown("u", 80)
        running.post(*events)
        for made in (1, 1):
            world.check("u", events, 10**6)
            assert running.runs["project"] == made
        more = shown("u", 1, start=80)
        running.post(*more)
        world.check("u", [*events, *more], 10**6)
        assert running.runs["project"] == 2
    finally:
        running.stop()


def test_what_is_still_true_is_taken_over() -> None:
    """A later version of a user makes anew only the categories whose events are others."""
    events = {"items": np.array([[1, 2], [3, 4], [5, 6]])}
    ready = {"keys_0": np.array([[10.0], [30.0], [50.0]])}
    earlier, later = Projections(), Projections()
    earlier.put([7, 2, 4], events, ready)
    assert earlier.missing([4, 9, 2, 9]) == [9]
    assert earlier.of([2, 4, 7])["keys_0"].tolist() == [[30.0], [50.0], [10.0]]
    assert earlier.of([7, 7, 2])["keys_0"].tolist() == [[10.0], [10.0], [30.0]]
    later.take_over([2, 3, 7], {"items": np.array([[3, 4], [3, 4], [1, 9]])}, earlier)
    assert later.missing([2, 3, 7]) == [3, 7]
    assert later.of([2])["keys_0"].tolist() == [[30.0]]


def test_many_categories_do_not_pile_up() -> None:
    """Whoever has asked about more categories than are kept has the first made anew."""
    kinds = np.zeros(300, np.int64)
    spec = Spec(depth=1, window=4, width=8, heads=2, history=200, search=6, family="sim")
    empty = np.zeros(300, np.int64)
    history = History(empty, empty, np.zeros((300, 1), np.int8))
    library = Library(history, spec, kinds)
    first, missing = library.projections_for([*range(MOST_KEPT)])
    assert missing == [*range(MOST_KEPT)]
    events = library.events_at(library.find(missing))
    first.put(missing, events, {"timestamps": events["timestamps"]})
    again, missing = library.projections_for([3, MOST_KEPT])
    assert again is not first
    assert missing == [3, MOST_KEPT]
    assert len(first) == MOST_KEPT
