import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from loadtest.traffic import Traffic, TrafficError, Universe


def _requests(count: int, traffic: Traffic) -> list[tuple[str, dict[str, object]]]:
    asked = itertools.islice(traffic, count)
    return [(request.path, orjson.loads(request.body)) for request in asked]


def test_shape() -> None:
    """A rank request names a known user and the asked number of different known items."""
    traffic = Traffic(Universe.of_counts(10, 200), candidates=30)
    for path, body in _requests(500, traffic):
        assert path == "/v1/rank"
        assert body["user_id"] in range(1, 11)
        assert len(set(body["candidates"])) == 30
        assert set(body["candidates"]) <= set(range(1, 201))


def test_users_by_zipf() -> None:
    """The first user comes as often as Zipf's law says, and more often than the tenth."""
    traffic = Traffic(Universe.of_counts(100, 10), candidates=1)
    seen = Counter(body["user_id"] for _, body in _requests(20_000, traffic))
    expected = 1 / sum(1 / rank for rank in range(1, 101))
    assert seen[1] / 20_000 == pytest.approx(expected, rel=0.1)
    assert seen[1] / seen[10] == pytest.approx(10, rel=0.3)


def test_popular_items() -> None:
    """Popular items stand in more candidate lists than rare ones, and in no fixed place."""
    traffic = Traffic(Universe.of_counts(10, 500), candidates=20)
    lists = [body["candidates"] for _, body in _requests(2_000, traffic)]
    counts = Counter(item for candidates in lists for item in candidates)
    assert counts[1] > 5 * counts[400]
    places = [candidates.index(1) for candidates in lists if 1 in candidates]
    assert np.mean(places) == pytest.approx(9.5, abs=2)


def test_events_share() -> None:
    """The asked share of requests is events, each of now, with feedback of 0 or 1 on the task."""
    traffic = Traffic(
        Universe.of_counts(10, 50), candidates=5, events_share=0.2, task="click", clock=lambda: 77.9
    )
    asked = _requests(5_000, traffic)
    events = [event for path, body in asked if path == "/v1/events" for event in body["events"]]
    assert len(events) / 5_000 == pytest.approx(0.2, abs=0.03)
    assert {event["timestamp"] for event in events} == {77}
    assert {event["feedback"]["click"] for event in events} == {0, 1}


def test_seed() -> None:
    """The same seed asks the same questions in the same order."""
    universe = Universe.of_counts(50, 50)
    first, second, other = (
        _requests(300, Traffic(universe, candidates=5, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_universe_of_events(tmp_path: Path, suffix: str) -> None:
    """Users and items come from an events file, most frequent first, their ids unchanged."""
    path = tmp_path / f"events.{suffix}"
    table = pa.table(
        {"user_id": ["007", "a b", "a b"], "item_id": ["5", "5", "6"], "like": [1, 0, 1]}
    )
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    universe = Universe.of_events(path)
    assert universe.users == ["a b", "007"]
    assert universe.items == ["5", "6"]
    users = {body["user_id"] for _, body in _requests(200, Traffic(universe, candidates=2))}
    assert users == {"a b", "007"}


def test_refusals(tmp_path: Path) -> None:
    """What traffic cannot be made from is refused in a sentence that names it."""
    with pytest.raises(TrafficError, match="6 different candidates cannot be drawn from 5 items"):
        Traffic(Universe.of_counts(5, 5), candidates=6)
    with pytest.raises(TrafficError, match=r"no events at .*nothing\.parquet"):
        Universe.of_events(tmp_path / "nothing.parquet")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrafficError, match=r"other\.csv: no column user_id can be read"):
        Universe.of_events(tmp_path / "other.csv")
