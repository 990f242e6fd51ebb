"""`marmot data convert`: logs as people have them become the events that were in them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import log_members, log_rows
from models.convert import Converted, Wish, convert
from models.event_source import EventsError
from models.events import read_events
from models.log_rules import Rule, parse_rule, parse_task
from service.marmot import run

HEADER = "user_id,item_id,timestamp,like\n"


def wish(kind: str, source: Path, out: Path, **more: Any) -> Wish:
    return replace(Wish(kind, source, out, {}, {}), **more)


def rows(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def events(found: Converted) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows(found.events)]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_ml_100k(tmp_path: Path) -> None:
    """Tabs without a header; a rating of 4 is a like; u.item is in Latin-1."""
    write(tmp_path / "in/u.data", "196\t242\t3\t881250949\n186\t302\t4\t891717742\n")
    flags = "|".join("1" if place == 5 else "0" for place in range(19))
    line = f"242|Misérables, Les (1995)|x||http://|{flags}\n"
    write(tmp_path / "in/u.item", line.encode("latin-1"))
    found = convert(wish("ml-100k", tmp_path / "in", tmp_path / "out"))
    assert events(found) == [("196", "242", 881250949, 0), ("186", "302", 891717742, 1)]
    (item,) = rows(found.items)
    assert item == {
        "item_id": "242", "name": "Misérables, Les", "year": "1995", "genres": "Comedy"
    }  # fmt: skip


def test_ml_1m(tmp_path: Path) -> None:
    """Fields between two colons, in a zip as it is offered."""
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as folder:
        folder.writestr("ml-1m/ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n")
        folder.writestr("ml-1m/movies.dat", "661::Peach: Part 2 (1996)::Animation|Musical\n")
        folder.writestr("ml-1m/README", "hello")
    found = convert(wish("ml-1m", tmp_path / "ml-1m.zip", tmp_path / "out"))
    assert events(found) == [("1", "1193", 978300760, 1), ("1", "661", 978302109, 0)]
    (item,) = rows(found.items)
    assert (item["name"], item["genres"]) == ("Peach: Part 2 (1996)", "Animation|Musical")


def test_ml_20m(tmp_path: Path) -> None:
    """A header, half stars, and titles with commas in quotes."""
    write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n")
    write(tmp_path / "movies.csv", 'movieId,title,genres\n2,"American President, The",Drama|War\n')
    found = convert(wish("ml-20m", tmp_path, tmp_path / "out"))
    assert events(found) == [("1", "2", 1112486027, 0)]
    assert rows(found.items)[0]["name"] == "American President, The"


def test_kuairand(tmp_path: Path) -> None:
    """Several logs in a tar.gz, milliseconds, seven kinds of feedback, tags as categories."""
    names = (
        "user_id,video_id,date,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
        "is_hate,long_view"
    )
    members = {
        "KuaiRand/data/log_random.csv": f"{names}\n0,8,20220509,1652025299875,0,0,0,0,0,1,0\n",
        "KuaiRand/data/log_standard.csv": f"{names}\n0,9,20220408,1649380000999,1,1,0,0,0,0,1\n",
        "KuaiRand/data/video_features_basic_1k.csv": (
            'video_id,author_id,video_type,upload_type,music_id,music_type,tag\n9,7,AD,x,5,9,"1,2"\n'
        ),
    }
    with tarfile.open(tmp_path / "KuaiRand.tar.gz", "w:gz") as folder:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            folder.addfile(entry, io.BytesIO(text.encode()))
    found = convert(wish("kuairand", tmp_path / "KuaiRand.tar.gz", tmp_path / "out"))
    assert found.tasks == ("click", "long_view", "like", "follow", "comment", "forward", "hate")
    assert events(found) == [
        ("0", "8", 1652025299, 0, 0, 0, 0, 0, 0, 1),
        ("0", "9", 1649380000, 1, 1, 1, 0, 0, 0, 0),
    ]
    assert rows(found.items)[0]["tag"] == "1|2"


AMAZON = {
    "Beauty_5.json.gz": gzip.compress(
        b'{"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1514764800, '
        b'"reviewText": "x"}\n{"reviewerID": "A1", "asin": "B2", "overall": 3.0, '
        b'"unixReviewTime": 1514764801}\n'
    ),
    "Beauty.jsonl": (
        b'{"rating": 5.0, "parent_asin": "B1", "user_id": "A1", "timestamp": 1514764800123}\n'
        b'{"rating": 3.0, "parent_asin": "B2", "user_id": "A1", "timestamp": 1514764801999}\n'
    ),
    "Beauty.csv": (
        b"user_id,parent_asin,rating,timestamp\nA1,B1,5.0,1514764800123\nA1,B2,3.0,1514764801999\n"
    ),
    "ratings_Beauty.csv": b"A1,B1,5.0,1514764800\nA1,B2,3.0,1514764801\n",
}


@pytest.mark.parametrize("name", AMAZON)
def test_amazon(tmp_path: Path, name: str) -> None:
    """Its four spellings say the same; the metadata beside them describes the items."""
    write(tmp_path / "in" / name, AMAZON[name])
    write(
        tmp_path / "in/meta_Beauty.json",
        '{"asin": "B1", "title": "Soap", "categories": [["Beauty", "Bath"]], "brand": "S"}\n',
    )
    found = convert(wish("amazon", tmp_path / "in", tmp_path / "out"))
    assert events(found) == [("A1", "B1", 1514764800, 1), ("A1", "B2", 1514764801, 0)]
    (item,) = rows(found.items)
    assert item == {"item_id": "B1", "name": "Soap", "category": "Beauty|Bath", "brand": "S"}


def test_taobao(tmp_path: Path) -> None:
    """No header; a task for each behaviour but the page view; items from the events themselves."""
    log = "1,22,100,pv,1511544070\n1,22,100,buy,1511544080\n2,33,200,fav,1511561733\n"
    write(tmp_path / "UserBehavior.csv", log)
    found = convert(wish("taobao", tmp_path / "UserBehavior.csv", tmp_path / "out"))
    assert found.tasks == ("buy", "cart", "fav")
    assert [row[3:] for row in events(found)] == [(0, 0, 0), (1, 0, 0), (0, 0, 1)]
    assert sorted(map(str, rows(found.items))) == [
        "{'item_id': '22', 'category': '100'}",
        "{'item_id': '33', 'category': '200'}",
    ]


def test_recbole(tmp_path: Path) -> None:
    """Typed headers, times as floats, sequences of words as categories."""
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    write(tmp_path / "x.inter", f'{header}u"1\ti1\t4.0\t881250949.0\n')
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    write(tmp_path / "x.item", f"{header}i1\tToy Story\t1995\tAnimation Comedy\n")
    found = convert(wish("recbole", tmp_path, tmp_path / "out"))
    assert events(found) == [('u"1', "i1", 881250949, 1)]
    (item,) = rows(found.items)
    assert (item["name"], item["class"]) == ("Toy Story", "Animation|Comedy")


def test_columns_without_a_header(tmp_path: Path) -> None:
    """Numbers name the columns of a file that has no header."""
    log = write(tmp_path / "x.csv", "b;1514764800;a;2\nd;1514764801;c;5\n")
    columns = {"user_id": "3", "item_id": "1", "timestamp": "2"}
    found = convert(
        wish("csv", log, tmp_path / "out", columns=columns, tasks={"like": parse_rule("4>=4")})
    )
    assert events(found) == [("a", "b", 1514764800, 0), ("c", "d", 1514764801, 1)]


def test_tasks_are_found(tmp_path: Path) -> None:
    """Any column of zeros and ones is a task; without one every event is a positive."""
    log = write(tmp_path / "x.csv", "user_id,item_id,timestamp,buy,price\nu,i,1,1,9\nu,j,2,,0\n")
    found = convert(wish("csv", log, tmp_path / "a"))
    assert (found.tasks, events(found)) == (("buy",), [("u", "i", 1, 1), ("u", "j", 2, None)])
    log = write(tmp_path / "y.csv", "user_id,item_id,timestamp,price\nu,i,1,9\n")
    found = convert(wish("csv", log, tmp_path / "b"))
    assert (found.tasks, events(found)) == (("positive",), [("u", "i", 1, 1)])


def test_only_some_rows(tmp_path: Path) -> None:
    """Conditions choose rows; what is left may all be positives by a name of one's own."""
    log = write(tmp_path / "x.csv", "user_id,item_id,timestamp,rating\nu,i,1,5\nu,j,2,3\nu,k,3,\n")
    asked = wish("csv", log, tmp_path / "out", where=(parse_rule("rating>=4"),), positive="buy")
    found = convert(asked)
    assert (found.tasks, events(found)) == (("buy",), [("u", "i", 1, 1)])


def test_parquet(tmp_path: Path) -> None:
    """Columns of any type that can be meant, rows named by number."""
    table = pa.table(
        {
            "user": [7, 8],
            "item": pa.array(["a", "b"]).dictionary_encode(),
            "when": pa.array([1_000_000, 2_999_999], pa.timestamp("us")),
            "seen": [True, None],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    columns = {"user_id": "user", "item_id": "item", "timestamp": "when"}
    found = convert(wish("parquet", tmp_path / "x.parquet", tmp_path / "out", columns=columns))
    assert events(found) == [("7", "a", 1, 1), ("8", "b", 2, None)]


BAD = f"""{HEADER}u,i,1,1
u,i,x,1
u,i,2
u,,3,1
"u
v",i,4,1
u,i,5,2

,i,6,1
u,j,7,0
"""


def test_every_bad_row_is_told_of(tmp_path: Path) -> None:
    """With skip the good rows stay, and file, line and field of each other one are listed."""
    log = write(tmp_path / "x.csv", BAD)
    asked = wish("csv", log, tmp_path / "out", stops=False, tasks={"like": Rule("like")})
    found = convert(asked)
    assert events(found) == [("u", "i", 1, 1), ("u", "j", 7, 0)]
    assert found.skipped == 6
    assert found.errors is not None
    with found.errors.open(newline="") as file:
        told = [(row["file"], row["line"], row["field"]) for row in csv.DictReader(file)]
    lines = [("3", "timestamp"), ("4", ""), ("5", "item_id"), ("6", "user_id"), ("8", "like")]
    assert told == [(str(log), *place) for place in [*lines, ("10", "user_id")]]


def test_the_first_bad_row_stops(tmp_path: Path) -> None:
    """Without skip the first one is named, and there is no result."""
    log = write(tmp_path / "x.csv", BAD)
    with pytest.raises(EventsError, match=r"x\.csv, line 3: timestamp must be .* not 'x'"):
        convert(wish("csv", log, tmp_path / "out", tasks={"like": Rule("like")}))
    assert not (tmp_path / "out/events.parquet").exists()
    log = write(tmp_path / "x.jsonl", '{"user_id": "u", "item_id": "i", "timestamp": 1}\n[]\n')
    with pytest.raises(EventsError, match="line 2: is not a JSON object"):
        convert(wish("csv", log, tmp_path / "out"))


CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=4)


@settings(max_examples=30)
@given(
    log=st.lists(st.tuples(CELL, CELL, st.integers(0, 10**9)), min_size=1, max_size=30),
    size=st.integers(1, 60),
)
def test_blocks_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, log: list[tuple[str, str, int]], size: int
) -> None:
    """Wherever a file is cut into blocks, quoted newlines included, its rows are the same."""
    folder = tmp_path_factory.mktemp("convert")
    with (folder / "x.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(("user_id", "item_id", "timestamp", "note"))
        writer.writerows((*row, "two\nlines, of a note") for row in log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_members, "BLOCK_BYTES", size)
        found = convert(wish("csv", folder / "x.csv", folder / "out", positive="buy"))
    assert events(found) == [(*row, 1) for row in log]


@pytest.mark.parametrize("zipped", [False, True])
def test_an_interrupted_conversion_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    """After an interruption nothing is read twice, and the result is that of a single run."""
    monkeypatch.setattr(log_members, "BLOCK_BYTES", 200)
    lines = [f"u{n},i,{n if n % 9 else 'x'},1\n" for n in range(300)]
    files = {"a.csv": lines[:90], "b.csv": lines[90:]}
    for name, part in files.items():
        write(tmp_path / "in" / name, HEADER + "".join(part))
    source = tmp_path / "in"
    if zipped:
        source = tmp_path / "in.zip"
        with zipfile.ZipFile(source, "w") as folder:
            for name in files:
                folder.write(tmp_path / "in" / name, name)
    whole = convert(wish("csv", source, tmp_path / "whole", stops=False, tasks=_like()))
    asked = wish("csv", source, tmp_path / "out", stops=False, tasks=_like())
    for stop in (3, 5, 2):  # further each time
        with pytest.raises(KeyboardInterrupt):
            convert(asked, _interrupting(stop))
    read: list[int] = []
    real = log_members.blocks
    monkeypatch.setattr(
        log_rows, "blocks", lambda *a, **k: (read.append(b.end) or b for b in real(*a, **k))
    )
    found = convert(asked)
    assert (found.count, found.skipped) == (whole.count, whole.skipped) == (266, 34)
    assert events(found) == events(whole)
    assert whole.errors is not None
    assert found.errors is not None
    assert found.errors.read_text() == whole.errors.read_text()
    assert len(read) < 10  # of eighteen or so, seven are left
    assert not (tmp_path / "out/.convert").exists()


def test_another_log_is_another_conversion(tmp_path: Path) -> None:
    """What was begun with another file, or other options, is not gone on with."""
    log = write(tmp_path / "x.csv", HEADER + "u,i,1,1\nu,i,x,1\n")
    with pytest.raises(EventsError):
        convert(wish("csv", log, tmp_path / "out", tasks=_like()))
    write(log, HEADER + "v,i,1,1\n")
    assert events(convert(wish("csv", log, tmp_path / "out"))) == [("v", "i", 1, 1)]


def _like() -> dict[str, Rule]:
    return dict([parse_task("like=like")])


def _interrupting(after: int) -> Callable[[int, int], None]:
    left = iter(range(after - 1))

    def advance(_done: int, _of: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return advance


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it writes can be trained on; with --json the answer is one line."""
    log = write(tmp_path / "x.csv", "uid,iid,t,stars\nu,i,1,5\nu,j,2000,1\n")
    options = [
        "data", "convert", "--format", "csv", "--in", str(log), "--out", str(tmp_path / "out"),
        "--columns", "user_id=uid,item_id=iid,timestamp=t", "--task", "like=stars>=4",
    ]  # fmt: skip
    assert run([*options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["count"], told["tasks"]) == (2, ["like"])
    assert read_events(Path(told["events"])).labels[:, 0].tolist() == [1, 0]
    assert run([*options, "--time-unit", "ms"]) == 0
    assert read_events(tmp_path / "out/events.parquet").timestamps.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--format", "tsv"], 2, "--format must be one of ml-100k"),
        (["--columns", "user_id"], 2, "--columns takes OURS=THEIRS"),
        (["--task", "like"], 2, "a task is NAME=COLUMN"),
        (["--task", "like=stars>=many"], 2, "which is no number"),
        (["--where", "stars"], 2, "a condition is COLUMN>=NUMBER"),
        (["--positive", "buy", "--task", "a=b"], 2, "it goes with no other task"),
        (["--columns", "item_id=iid"], 1, "has no column iid (it has 'user_id', 'item_id'"),
        (["--task", "like=stars>=4"], 1, "has no column stars"),
        (["--in", "nowhere"], 1, "nowhere does not exist"),
        (["--format", "ml-1m", "--in", "."], 1, "holds no file named ratings.dat"),
        (["--where", "timestamp>5"], 1, "holds no event"),
    ],
    ids=str,
)
def test_bad_wishes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    """Bad usage is 2, a log that does not fit is 1; one sentence either way, and no result."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.csv", HEADER + "u,i,1,1\n")
    usual = ["--format", "csv", "--in", "x.csv", "--out", "out"]
    assert run(["data", "convert", *usual, *options]) == code
    heard = capsys.readouterr()
    assert heard.out == ""
    assert said in " ".join(heard.err.split())
    assert "Traceback" not in heard.err
    assert not (tmp_path / "out/events.parquet").exists()
