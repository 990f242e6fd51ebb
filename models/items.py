"""The items file: names and, for models that search by them, categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

Array = np.ndarray[Any, Any]

NAME_COLUMNS = ("name", "title", "item_name")
CATEGORY_COLUMNS = ("category", "category_id", "categories", "genre", "genres")


class ItemsError(ValueError):
    """An items file that cannot be used; the message names the file and the field."""


def read_names(path: Path) -> dict[str, str]:
    """Item id to name, for the items that have one; empty without a column of names."""
    return _column(path, NAME_COLUMNS) or {}


def read_categories(path: Path) -> dict[str, str] | None:
    """Item id to category, of several the first, for the items that have one; None: no column."""
    found = _column(path, CATEGORY_COLUMNS)
    return found and {item_id: cell.partition("|")[0] for item_id, cell in found.items()}


def numbered(item_ids: Sequence[str], categories: Mapping[str, str]) -> Array:
    """Each item's category as a number, (items,) int64: 0 for none, the others from 1 on."""
    found = [categories.get(item_id) for item_id in item_ids]
    number = {name: place for place, name in enumerate(sorted({*found} - {None}, key=str), 1)}
    return np.array([0 if name is None else number[name] for name in found], np.int64)


def _column(path: Path, columns: Sequence[str]) -> dict[str, str] | None:
    """The first of these columns that is there, by item id, without its empty cells."""
    table = _table(path)
    if "item_id" not in table.column_names:
        raise ItemsError(f"{path}: there is no column item_id")
    column = next((name for name in columns if name in table.column_names), None)
    if column is None:
        return None
    ids = table["item_id"].cast(pa.string()).to_pylist()
    cells = table[column].cast(pa.string()).to_pylist()
    return {item_id: cell for item_id, cell in zip(ids, cells, strict=True) if item_id and cell}


def read_features(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Item id to its categories as (column, value): every column but the name and fractions."""
    table = _table(path)
    if "item_id" not in table.column_names:
        raise ItemsError(f"{path}: there is no column item_id")
    found: dict[str, list[tuple[str, str]]] = {}
    ids = table["item_id"].cast(pa.string()).to_pylist()
    for item_id in ids:
        if item_id:
            found[item_id] = []
    for name in table.column_names:
        kind = table.schema.field(name).type
        if name in {"item_id", *NAME_COLUMNS} or pa.types.is_floating(kind):
            continue
        try:
            values = table[name].cast(pa.string()).to_pylist()
        except pa.ArrowException as error:
            raise ItemsError(f"{path}: the column {name} is no category: {error}") from error
        for item_id, cell in zip(ids, values, strict=True):
            if item_id and cell:
                found[item_id] += [(name, value) for value in cell.split("|") if value]
    return found


def _table(path: Path) -> pa.Table:
    try:
        if path.read_bytes()[:4] == b"PAR1":
            return pq.read_table(path)
        text = {"item_id": pa.string()}
        options = pyarrow.csv.ConvertOptions(column_types=text, strings_can_be_null=True)
        return pyarrow.csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        raise ItemsError(
            f"no items at {path}; leave --items out, or write a file with item_id and name"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise ItemsError(f"{path}: the items file cannot be read: {error}") from error
