from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.events import EventsError, EventTable, read_events, validation_users

HEADER = b"user_id,item_id,timestamp,like\n"


def same(one: EventTable, other: EventTable) -> bool:
    return (
        one.user_ids == other.user_ids
        and one.item_ids == other.item_ids
        and one.tasks == other.tasks
        and np.array_equal(one.offsets, other.offsets)
        and np.array_equal(one.items, other.items)
        and np.array_equal(one.timestamps, other.timestamps)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.feedback_timestamps, other.feedback_timestamps)
    )


def from_csv(folder: Path, text: bytes, tasks: list[str] | None = None) -> EventTable:
    path = folder / "events.csv"
    path.write_bytes(text)
    return read_events(path, tasks)


def from_parquet(folder: Path, tasks: list[str] | None = None, **columns: object) -> EventTable:
    rows: dict[str, object] = {"user_id": ["1", "2"], "item_id": ["a", "b"], "timestamp": [5, 6]}
    path = folder / "events.parquet"
    pq.write_table(pa.table(rows | {"like": [1, None]} | columns), path)
    return read_events(path, tasks)


IDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=3)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["7", "007", "é", "z", "😀"]) | IDS,
            "item_id": st.sampled_from(["a", "b", "ÿ", "Ā", "\U00010000", "\uffff"]) | IDS,
            "timestamp": st.integers(0, 3) | st.integers(0, 10**18 - 1),
            "like": st.sampled_from([0, 1, None]),
            "share": st.sampled_from([0, 1, None]),
            "feedback_timestamp": st.none() | st.integers(0, 5),
        }
    ),
    min_size=1,
    max_size=12,
)


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if text else text

    names = list(rows[0])
    lines = [",".join(names), *(",".join(cell(row[name]) for name in names) for row in rows)]
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return path


def write_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    types = dict.fromkeys(rows[0], pa.int64()) | dict.fromkeys(("user_id", "item_id"), pa.string())
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(types.items()))), path)
    return path


Mark = tuple[int, int]  # when it was said, and what
UNSAID: Mark = (0, -1)


def by_hand(rows: list[dict[str, object]]) -> dict[tuple[str, int, str], dict[str, Mark]]:
    """The contract's merging, one row at a time."""
    merged: dict[tuple[str, int, str], dict[str, Mark]] = {}
    for row in rows:
        key = (str(row["user_id"]), int(str(row["timestamp"])), str(row["item_id"]))
        event = merged.setdefault(key, {})
        sent = row["timestamp"] if row["feedback_timestamp"] is None else row["feedback_timestamp"]
        for task in ("like", "share"):
            if row[task] is not None:
                news = (int(str(sent)), int(str(row[task])))
                event[task] = max(event.get(task, news), news)
    return merged


@settings(max_examples=40)
@given(rows=ROWS, data=st.data())
def test_order_and_repetition(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], data: st.DataObject
) -> None:
    """A table is a function of the set of rows: not of their order, nor of how often each came."""
    folder = tmp_path_factory.mktemp("events")
    again = rows + data.draw(st.lists(st.sampled_from(rows), max_size=5))
    shuffled = data.draw(st.permutations(again))
    tasks = ["like", "share"]
    one = read_events(write_parquet(folder / "one", rows), tasks)
    assert same(one, read_events(write_parquet(folder / "other", shuffled), tasks))


@settings(max_examples=40)
@given(rows=ROWS)
def test_csv_equals_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    """The same rows give the same table from CSV and from Parquet, whatever the file's suffix."""
    folder = tmp_path_factory.mktemp("events")
    tasks = ["share", "like"]
    one = read_events(write_csv(folder / "one.parquet", rows), tasks)
    assert same(one, read_events(write_parquet(folder / "other.csv", rows), tasks))
    assert one.tasks == ("share", "like")


@settings(max_examples=40)
@given(rows=ROWS)
def test_table_equals_merging_by_hand(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    """Users and events are sorted by bytes and time; the newest feedback wins, 1 at a tie."""
    table = read_events(
        write_parquet(tmp_path_factory.mktemp("events") / "e", rows), ["like", "share"]
    )
    expected = by_hand(rows)
    order = sorted(expected, key=lambda key: (key[0].encode(), key[1], key[2].encode()))
    assert table.user_ids == sorted(table.user_ids, key=str.encode)
    found = zip(table.users, table.timestamps, table.items, strict=True)
    assert [(table.user_ids[u], t, table.item_ids[i]) for u, t, i in found] == order
    for column, task in enumerate(table.tasks):
        marks = zip(table.feedback_timestamps[:, column], table.labels[:, column], strict=True)
        assert list(marks) == [expected[key].get(task, UNSAID) for key in order]


def test_ids_are_text(tmp_path: Path) -> None:
    """`007` is not `7`, nothing is trimmed, and NA and null are names like others."""
    table = from_csv(tmp_path, HEADER + b"007,NA,1,1\n7,null,2,0\n 7,nan,3,1\n")
    assert table.user_ids == [" 7", "007", "7"]
    assert table.item_ids == ["NA", "nan", "null"]


def test_whole_numbers_become_text(tmp_path: Path) -> None:
    """Whole numbers of a Parquet file are ids in decimal, dictionaries are their values."""
    large = from_parquet(tmp_path, user_id=pa.array([2**63 + 5, 1], pa.uint64()))
    assert large.user_ids == ["1", "9223372036854775813"]
    encoded = from_parquet(tmp_path, item_id=pa.array(["x", "y"]).dictionary_encode())
    assert encoded.item_ids == ["x", "y"]


def test_tasks_default_to_every_0_1_column(tmp_path: Path) -> None:
    """Tasks are the columns of nothing but 0, 1 and empty in the file's order, no others."""
    header = b"share,user_id,rating,item_id,like,timestamp,nothing\n"
    table = from_csv(tmp_path, header + b"1,u,5,i,,1,\n,u,1,i,1.0,2,\n")
    assert table.tasks == ("share", "like")
    assert table.labels.tolist() == [[1, -1], [-1, 1]]
    assert from_csv(tmp_path, header + b"1,u,5,i,,1,\n", ["like"]).labels.tolist() == [[-1]]


def test_feedback_of_parquet_floats(tmp_path: Path) -> None:
    """Labels that went through floats keep their three states."""
    assert from_parquet(tmp_path, like=[float("nan"), 0.0]).labels.tolist() == [[-1], [0]]


CSV_SENTENCES = [
    (b"", "events.csv is empty"),
    (b"\n\n", "events.csv is empty"),
    (HEADER, "events.csv has a header but no events"),
    (b"user_id,item_id,like\n1,2,1\n", "events.csv has no column timestamp"),
    (b"user_id,user_id,item_id,timestamp\n1,1,2,3\n", "has the column 'user_id' twice"),
    (b"\x1f\x8b\0\0", "events.csv is neither Parquet nor CSV in UTF-8"),
    (HEADER.replace(b"like", b"lik\xe9"), "events.csv is neither Parquet nor CSV in UTF-8"),
    (HEADER + b"1,2,3,1\n\n1,2,3\n", "line 4: 3 fields where the header has 4"),
    (HEADER + b"1,2,3,1,5\n", "line 2: 5 fields where the header has 4"),
    (HEADER + b"1,2,-3,1\n", "line 2: timestamp must be whole seconds"),
    (HEADER + b"1,2,1.5,1\n", "line 2: timestamp must be whole seconds"),
    (HEADER + b"1,2,0x1F,1\n", "line 2: timestamp must be whole seconds"),
    (HEADER + b"1,2,nan,1\n", "line 2: timestamp must be whole seconds"),
    (HEADER + b"1,2," + b"9" * 19 + b",1\n", "line 2: timestamp must be whole seconds"),
    (HEADER + b"1,2,3,1\n1,2,,1\n", "line 3: timestamp is empty"),
    (HEADER + b"1,2,3,1\n\n1,2,4,2\n", "line 4: like must be 0, 1 or empty, not '2'"),
    (HEADER + b'1,2,3,"yes\nno"\n', "line 2: like must be 0, 1 or empty, not 'yes\\nno'"),
    (HEADER + b"1,2,3,\n", "has no task column with a 0 or a 1 in it"),
    (b"user_id,item_id,timestamp\n1,2,3\n", "has no task column with a 0 or a 1 in it"),
    (HEADER + b",2,3,1\n", "line 2: user_id is empty"),
    (HEADER + b'1,"",3,1\n', "line 2: item_id is empty"),
    (HEADER + b"1,2,3,1\n\xff,2,3,1\n", "line 3: user_id is not valid UTF-8"),
    (HEADER + b"1,a\x01,3,1\n", "line 2: item_id contains a control character: 'a\\x01'"),
    (HEADER + b"1,\xc2\x85,3,1\n", "line 2: item_id contains a control character"),
    (HEADER + b'1,"a\nb",3,1\n1,2,x,1\n', "line 2: item_id contains a control character"),
    (HEADER + b"1,2,3,1\n" + b"a" * 129 + b",2,3,1\n", "line 3: user_id is 129 bytes long"),
    (HEADER.replace(b"\n", b",feedback_timestamp\n") + b"1,2,3,1,-1\n", "line 2: feedback_timesta"),
]


@pytest.mark.parametrize(("text", "sentence"), CSV_SENTENCES)
def test_bad_csv(tmp_path: Path, text: bytes, sentence: str) -> None:
    """A CSV file that can't be used gets one sentence that names file, line and field."""
    with pytest.raises(EventsError) as caught:
        from_csv(tmp_path, text)
    assert sentence in str(caught.value)
    assert str(tmp_path / "events.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


PARQUET_SENTENCES: list[tuple[dict[str, object], str]] = [
    ({"user_id": [True, False]}, "user_id must be text or whole numbers, not bool"),
    ({"user_id": [1.0, 2.0]}, "user_id must be text or whole numbers, not double"),
    ({"item_id": [["a"], ["b"]]}, "item_id must be text or whole numbers, not list"),
    ({"user_id": ["1", None]}, "row 2: user_id is empty"),
    ({"user_id": pa.nulls(2)}, "row 1: user_id is empty"),
    ({"user_id": pa.array([b"a", b"\xff"]).view(pa.string())}, "row 2: user_id is not valid UTF-8"),
    ({"user_id": ["1", "a\n"]}, "row 2: user_id contains a control character"),
    ({"timestamp": ["1", "2"]}, "timestamp must be whole seconds, not string"),
    ({"timestamp": [1.0, 2.0]}, "timestamp must be whole seconds, not double"),
    ({"timestamp": [True, False]}, "timestamp must be whole seconds, not bool"),
    ({"timestamp": [1, None]}, "row 2: timestamp is empty"),
    ({"timestamp": pa.nulls(2)}, "row 1: timestamp is empty"),
    ({"timestamp": [1, -1]}, "row 2: timestamp must be whole seconds"),
    ({"timestamp": pa.array([1, 2**64 - 1], pa.uint64())}, "row 2: timestamp must be whole"),
    ({"like": [1, 2]}, "row 2: like must be 0, 1 or empty, not '2'"),
    ({"like": [0.5, 1]}, "row 1: like must be 0, 1 or empty, not '0.5'"),
    ({"like": [True, None]}, "row 1: like must be 0, 1 or empty, not 'True'"),
    ({"feedback_timestamp": [None, -3]}, "row 2: feedback_timestamp must be whole seconds"),
]


@pytest.mark.parametrize(("columns", "sentence"), PARQUET_SENTENCES)
def test_bad_parquet(tmp_path: Path, columns: dict[str, object], sentence: str) -> None:
    """A Parquet file that can't be used gets one sentence that names file, row and field."""
    with pytest.raises(EventsError) as caught:
        from_parquet(tmp_path, ["like"], **columns)
    assert sentence in str(caught.value)
    assert str(tmp_path / "events.parquet") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    """A file that is missing, a folder, damaged or cut short is named as that."""
    with pytest.raises(EventsError, match=r"no events at .*nowhere; `marmot data"):
        read_events(tmp_path / "nowhere")
    with pytest.raises(EventsError, match="can't be read: Is a directory"):
        read_events(tmp_path)
    from_parquet(tmp_path)
    path = tmp_path / "events.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(EventsError, match="can't be read as Parquet"):
        read_events(path)
    for place in range(4, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            read_events(path)
        except EventsError as error:
            assert "\n" not in str(error)  # noqa: PT017 (many flipped bytes do no harm)


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        (["buy"], "has no column buy"),
        (["user_id"], "the column user_id cannot be a task"),
        (["like", "like"], "a task is named twice"),
    ],
)
def test_bad_tasks(tmp_path: Path, tasks: list[str], sentence: str) -> None:
    """Tasks that the file does not have are named."""
    with pytest.raises(EventsError, match=sentence):
        from_csv(tmp_path, HEADER + b"1,2,3,1\n", tasks)


def table_of(*counts: int) -> EventTable:
    return EventTable(
        user_ids=[f"{user:03}" for user in range(len(counts))],
        offsets=np.cumsum([0, *counts]),
        item_ids=["i"],
        items=np.zeros(sum(counts), np.int64),
        timestamps=np.arange(sum(counts)),
        tasks=("like",),
        labels=np.ones((sum(counts), 1), np.int8),
        feedback_timestamps=np.arange(sum(counts))[:, None],
    )


def test_holdout() -> None:
    """The last tenth rounded down is held out, at least one event, and nothing below 5 events."""
    table = table_of(4, 5, 9, 10, 19, 20, 30, 100)
    held = table.counts - table.holdout_start(0.1)
    assert held.tolist() == [0, 1, 1, 1, 1, 2, 3, 10]
    assert (table.counts - table.holdout_start(0.29))[-1] == 29
    assert (table.holdout_start(0) == table.counts).all()
    assert table.is_held_out(0.1)[4:9].tolist() == [False] * 4 + [True]
    assert not table.is_held_out(0).any()
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match="holdout"):
            table.holdout_start(fraction)


def test_take() -> None:
    """A subset keeps the indices of users and items, and what is held out is what was left out."""
    table = table_of(4, 5, 20)
    rest = table.take(~table.is_held_out(0.1))
    assert rest.counts.tolist() == [4, 4, 18]
    assert rest.user_ids == table.user_ids
    assert rest.timestamps[rest.user(2)].tolist() == list(range(9, 27))
    assert rest.feedback_timestamps[rest.user(2), 0].tolist() == list(range(9, 27))
    assert rest.of_seen_items().feedback_timestamps is rest.feedback_timestamps
    assert len(table.take(np.zeros(29, bool))) == 0


def test_validation_users() -> None:
    """About a share of the users validates, by their ids alone; one at least, and never all."""
    ids = [str(user) for user in range(4_000)]
    picked = validation_users(ids)
    assert 140 < picked.sum() < 260
    assert np.array_equal(validation_users(ids[::-1]), picked[::-1])
    for count in (2, 3, 10):
        assert 1 <= validation_users(ids[:count]).sum() < count
        assert validation_users(ids[:count], 1.0).sum() == count - 1
    assert not validation_users(ids, 0).any()
    assert validation_users([]).shape == (0,)
