"""The items file: names and, for families that use them, categories."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

NAME_COLUMNS = ("name", "title", "item_name")


class ItemsError(ValueError):
    """An items file that cannot be used; the message names the file and the field."""


def read_names(path: Path) -> dict[str, str]:
    """Item id to name, for the items that have one; empty without a column of names."""
    table = _table(path)
    if "item_id" not in table.column_names:
        raise ItemsError(f"{path}: there is no column item_id")
    column = next((name for name in NAME_COLUMNS if name in table.column_names), None)
    if column is None:
        return {}
    ids = table["item_id"].cast(pa.string()).to_pylist()
    names = table[column].cast(pa.string()).to_pylist()
    return {item_id: name for item_id, name in zip(ids, names, strict=True) if item_id and name}


def read_categories(path: Path) -> dict[str, list[tuple[str, str]]]:
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
    except (OSError, pa.ArrowException) as error:
        raise ItemsError(f"{path}: the items file cannot be read: {error}") from error
