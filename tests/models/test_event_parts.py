"""A file in parts says what it says as a whole."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from models import event_parts, event_source
from models.event_parts import split_events
from models.events import EventsError, EventTable, read_events

ROWS = 3_000
HEADER = ["user_id", "item_id", "timestamp", "like", "late", "never", "feedback_timestamp"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_parts, "ROWS_PER_PART", 500)
    monkeypatch.setattr(event_source, "_STREAM_ROWS", 128)
    monkeypatch.setattr(event_source, "_STREAM_BLOCK_BYTES", 4_096)


@pytest.fixture(params=["csv", "parquet"])
def events(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Rows in any order, some of them twice; `late` is a task until row 2,000."""
    random, path = np.random.default_rng(0), tmp_path / "events.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        for row in range(ROWS):
            user, item, when = random.integers(0, [200, 30, 50]).tolist()
            like, late = random.choice(["0", "1", ""], 2)
            said = "" if row % 3 else 1_000 + row
            late = "7" if row == 2_000 else late
            rows.writerow([f"u{user} é", item, when, like, late, "", said])
    if request.param == "csv":
        return path
    pq.write_table(pa_csv.read_csv(path), tmp_path / "events.parquet")
    return tmp_path / "events.parquet"


def by_user(table: EventTable) -> dict[str, list[Any]]:
    found = {}
    for index in np.flatnonzero(table.counts):
        span = table.user(index)
        items = [table.item_ids[item] for item in table.items[span]]
        columns = (table.timestamps, table.labels, table.feedback_timestamps)
        found[table.user_ids[index]] = [items, *(column[span].tolist() for column in columns)]
    return found


def test_parts_make_the_whole(events: Path, tmp_path: Path) -> None:
    """Every user is in one part, with the events and tasks that the whole file gives them."""
    (folder := tmp_path / "parts").mkdir()
    whole = read_events(events)
    parts = split_events(events, folder)
    assert (parts.tasks, parts.rows) == (("like",), ROWS) == (whole.tasks, ROWS)
    tables = [by_user(table) for table in parts]
    assert len(tables) > 4
    assert sum(map(len, tables)) == 200
    assert {user: said for table in tables for user, said in table.items()} == by_user(whole)


FAULTS = {
    "item_id": ("", "item_id is empty"),
    "timestamp": ("soon", "timestamp must be whole seconds"),
    "like": ("yes", "like must be 0, 1 or empty, not 'yes'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_before_anything_is_used(tmp_path: Path, name: str) -> None:
    """It is told with its line in the whole file, as if that had been read at once."""
    path, (cell, sentence) = tmp_path / "events.csv", FAULTS[name]
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, ["user_id", "item_id", "timestamp", "like"])
        rows.writeheader()
        for at in range(1_000):
            row = {"user_id": at, "item_id": at, "timestamp": at, "like": at % 2}
            rows.writerow(row | ({name: cell} if at == 900 else {}))
    with pytest.raises(EventsError) as at_once:
        read_events(path)
    with pytest.raises(EventsError) as caught:
        split_events(path, tmp_path)
    assert str(caught.value) == str(at_once.value)
    assert f"line 902: {sentence}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "user_id,item_id,timestamp,like\n",
        "user_id,item_id,like\n1,1,1\n",
        "user_id,item_id,timestamp\n1,1,1\n",
        "user_id,item_id,timestamp,like\n1,1,1,\n",
        "",
    ],
)
def test_nothing_to_split(tmp_path: Path, text: str) -> None:
    """No events, no tasks, no columns: the same sentence as for the whole."""
    (path := tmp_path / "events.csv").write_text(text)
    with pytest.raises(EventsError) as at_once:
        read_events(path)
    with pytest.raises(EventsError) as caught:
        split_events(path, tmp_path)
    assert str(caught.value) == str(at_once.value)
