"""The items of a log: a name, and categories whose several values are joined by `|`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa

from models.event_file import fault_of
from models.log_formats import Layout
from models.log_members import Member, blocks
from models.log_rows import open_log
from models.movielens import grouplens_item

Item = dict[str, str | None]
#: Whole rows of a file, as texts.
Texts = Iterator[list[str]]

_LIST = re.compile(r"[,|]\s*")
_TITLES = ("title", "name", "movie_title", "item_name")


def read_items(format_name: str, member: Member) -> Iterator[pa.Table]:
    """The items of one file, some at a time; rows without a usable id are passed over."""
    reader = _READERS.get(format_name)
    if reader is None:
        return
    items: list[Item] = []
    for item in reader(member):
        if not fault_of(item["item_id"] or ""):
            items.append(item)
        if len(items) >= 100_000:
            yield _table(items)
            items = []
    if items:
        yield _table(items)


def _table(items: list[Item]) -> pa.Table:
    names = list(dict.fromkeys(name for item in items for name in item))
    return pa.table(
        {name: pa.array([item.get(name) for item in items], pa.string()) for name in names}
    )


def _ml_100k(member: Member) -> Iterator[Item]:
    for line in _lines(member, "latin-1"):
        film = grouplens_item(line)
        year = str(film.year) if film.year else None
        yield _item(str(film.item), film.name, year=year, genres="|".join(film.genres))


def _ml_1m(member: Member) -> Iterator[Item]:
    for line in _lines(member, "latin-1"):
        number, title, genres = line.split("::")
        yield _item(number, title, genres=genres)


def _ml_20m(member: Member) -> Iterator[Item]:
    for row in _rows(member, ","):
        yield _item(row["movieId"], row.get("title"), genres=row.get("genres"))


def _kuairand(member: Member) -> Iterator[Item]:
    kept = ("author_id", "video_type", "upload_type", "music_id", "music_type")
    for row in _rows(member, ","):
        tags = "|".join(_LIST.split(row.get("tag") or ""))
        yield _item(row["video_id"], None, **{name: row.get(name) for name in kept}, tag=tags)


def _amazon(member: Member) -> Iterator[Item]:
    for line in _lines(member, "utf-8"):
        row = orjson.loads(line)
        listed = row.get("categories") or row.get("category") or []
        while listed and isinstance(listed[0], list):
            listed = listed[0]
        yield _item(
            str(row.get("parent_asin") or row.get("asin") or ""),
            row.get("title"),
            category="|".join(map(str, listed)) if isinstance(listed, list) else str(listed),
            brand=row.get("brand") or row.get("store"),
        )


def _recbole(member: Member) -> Iterator[Item]:
    for row in _rows(member, "\t"):
        typed = {name.partition(":")[0]: (name, value) for name, value in row.items()}
        _, number = typed.pop("item_id")
        title = next((typed.pop(name)[1] for name in _TITLES if name in typed), None)
        rest = {
            name: value.replace(" ", "|") if value and full.endswith("_seq") else value
            for name, (full, value) in typed.items()
        }
        yield _item(number, title, **rest)


_READERS: Mapping[str, Callable[[Member], Iterator[Item]]] = {
    "ml-100k": _ml_100k,
    "ml-1m": _ml_1m,
    "ml-20m": _ml_20m,
    "kuairand": _kuairand,
    "amazon": _amazon,
    "recbole": _recbole,
}


def _item(number: str | None, name: str | None, **rest: str | None) -> Item:
    return {"item_id": number, "name": name or None, **{k: v or None for k, v in rest.items()}}


def _lines(member: Member, encoding: str) -> Iterator[str]:
    with member.open() as file:
        for block in blocks(file, 0, 1, is_quoted=False):
            for line in block.data.decode(encoding, "replace").split("\n"):
                if line.strip():
                    yield line.rstrip("\r")


def _rows(member: Member, delimiter: str) -> Iterator[dict[str, str | None]]:
    """Rows under a header, by its names."""
    is_quoted = delimiter == ","
    layout = Layout({}, delimiter=delimiter, is_quoted=is_quoted)
    opened = open_log(member, (layout,), {})
    for rows in opened.read(opened.names, 0, 1):
        columns: list[list[Any]] = [rows.cells[name].to_pylist() for name in opened.names]
        for cells in zip(*columns, strict=True):
            texts = (None if cell is None else cell.decode("utf-8", "replace") for cell in cells)
            yield dict(zip(opened.names, texts, strict=True))
