"""Requests of `marmot score`: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.event_file import TIMESTAMP_LIMIT, fault_of

Id = str | int


class RequestError(ValueError):
    """A line that is no request; the message names the file, the line and the field."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ids as they were sent, so that the answer can give them back."""

    user_id: Id
    candidates: list[Id]
    timestamp: int


def read_requests(path: Path) -> Iterator[Request]:
    """Every request of a JSONL file; empty lines are passed over."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _request(line, f"{path}, line {number}")
    except FileNotFoundError:
        raise RequestError(
            f'no requests at {path}; a line is {{"user_id": …, "candidates": […], "timestamp": …}}'
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: the requests cannot be read: {error}") from error


def _request(line: str, place: str) -> Request:
    try:
        sent = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{place}: not JSON: {error}") from error
    if not isinstance(sent, dict):
        raise RequestError(f"{place}: not an object")
    for field in ("user_id", "candidates", "timestamp"):
        if field not in sent:
            raise RequestError(f"{place}: {field} is missing")
    candidates, timestamp = sent["candidates"], sent["timestamp"]
    if not isinstance(candidates, list) or not candidates:
        raise RequestError(f"{place}: candidates must be a list of one item or more")
    is_whole = isinstance(timestamp, int) and not isinstance(timestamp, bool)
    if not (is_whole and 0 <= timestamp < TIMESTAMP_LIMIT):
        raise RequestError(
            f"{place}: timestamp must be whole seconds, 0 or more and at most 18 digits"
        )
    return Request(
        _id(sent["user_id"], f"{place}: user_id"),
        [_id(item, f"{place}: candidates[{n}]") for n, item in enumerate(candidates)],
        timestamp,
    )


def _id(value: Any, place: str) -> Id:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RequestError(f"{place} must be text or a whole number")
    if isinstance(value, str) and (fault := fault_of(value)):
        raise RequestError(f"{place} {fault}")
    return value
