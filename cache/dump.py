"""A dump: timelines as lines of JSON, for moving them between stores. Versioned and checksummed.

    {"sum":"…","is":{"marmot-dump":1,"keep":1000}}
    {"sum":"…","is":{"user":"42","trimmed":false,"items":["50"],"times":[893286638],
                     "feedback":{"like":[[1],[893286638]]}}}
    {"sum":"…","is":{"lines":1,"events":1}}

`sum` is the xxh3_64 of the bytes of `is`, in hex. A user has a line for every thousand events,
oldest first; feedback is a value (-1 = not known) and when it was said, for each event. The last
line counts the others, so that a dump that was cut short is known as one. Later releases read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import xxhash

from cache.errors import DumpError
from cache.keys import MAX_ID_BYTES
from cache.timeline import UNKNOWN, Event, Mark, Timeline

FORMAT = 1
LINE_EVENTS = 1000
MOST_LINE_BYTES = 8 << 20
LATEST_S = 2**53

_BEFORE_SUM, _BEFORE_BODY, _END = b'{"sum":"', b'","is":', b"}"
_BODY = len(_BEFORE_SUM) + 16 + len(_BEFORE_BODY)


@dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive events of one user."""

    user_id: str
    events: list[Event]
    trimmed: bool
    """There were older events than the user's first part holds."""


def first_line(keep: int | None) -> bytes:
    """How many events the store keeps of each user; None where it holds nobody."""
    return _sealed({"marmot-dump": FORMAT, "keep": keep})


def user_lines(user_id: str, timeline: Timeline, *, trimmed: bool) -> Iterator[bytes]:
    """A user's whole timeline."""
    for start in range(0, len(timeline), LINE_EVENTS):
        part = timeline[start : min(start + LINE_EVENTS, len(timeline))]
        yield _sealed(
            {
                "user": user_id,
                "trimmed": trimmed,
                "items": part.item_ids,
                "times": part.timestamps.tolist(),
                "feedback": {
                    task: [column.values.tolist(), column.timestamps.tolist()]
                    for task, column in part.feedback.items()
                },
            }
        )


def last_line(lines: int, events: int) -> bytes:
    """How many lines of users there were, and events on them."""
    return _sealed({"lines": lines, "events": events})


class Dump:
    """The parts of a dump, read once; raises `DumpError` naming the line."""

    def __init__(self, lines: Iterable[bytes], name: str = "the dump") -> None:
        self._lines = iter(lines)
        self._name = name
        self._number = 0
        self.keep = self._read_first()

    def __iter__(self) -> Iterator[Part]:
        """Ends only behind the last line."""
        parts = events = 0
        while value := self._next():
            if "user" in value:
                part = self._part(value)
                parts, events = parts + 1, events + len(part.events)
                yield part
                continue
            if (value.get("lines"), value.get("events")) != (parts, events):
                raise self._bad("lines are missing before the last one")
            if self._next():
                raise self._bad("something follows the last line")
            return
        raise self._bad("the dump ends here, before its last line")

    def _read_first(self) -> int | None:
        value = self._next()
        version, keep = value.get("marmot-dump"), value.get("keep")
        if type(version) is not int:
            raise self._bad("not the first line of a dump")
        if not 1 <= version <= FORMAT:
            raise self._bad(f"format {version}, and this release reads up to {FORMAT}")
        if keep is not None and not (type(keep) is int and keep > 0):
            raise self._bad("keep is not a number of events")
        return keep

    def _next(self) -> dict[str, Any]:
        """What the next line says; nothing at the end."""
        line = next(self._lines, b"")
        if not line:
            return {}
        self._number += 1
        if len(line) > MOST_LINE_BYTES:
            raise self._bad(f"longer than {MOST_LINE_BYTES:,} bytes")
        line = line.rstrip(b"\r\n")
        body = line[_BODY : -len(_END)]
        if line != _with_sum(body):
            raise self._bad("damaged, or not of a dump")
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise self._bad("not JSON") from error
        if not isinstance(value, dict) or not value:
            raise self._bad("not an object")
        return value

    def _part(self, value: dict[str, Any]) -> Part:
        try:
            return Part(_text(value["user"]), _events(value), bool(value["trimmed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._bad(f"not a user's events: {error}") from error

    def _bad(self, what: str) -> DumpError:
        return DumpError(f"{self._name}, line {max(self._number, 1)}: {what}")


def _sealed(value: dict[str, Any]) -> bytes:
    return _with_sum(orjson.dumps(value)) + b"\n"


def _with_sum(body: bytes) -> bytes:
    seal = xxhash.xxh3_64_hexdigest(body).encode()
    return _BEFORE_SUM + seal + _BEFORE_BODY + body + _END


def _events(value: dict[str, Any]) -> list[Event]:
    items = value["items"]
    columns = [
        (_text(task), _values(values, len(items)), _times(said, len(items)))
        for task, (values, said) in value["feedback"].items()
    ]
    return [
        Event(
            _text(item_id),
            timestamp,
            {
                task: Mark(values[at], said[at])
                for task, values, said in columns
                if values[at] != UNKNOWN
            },
        )
        for at, (item_id, timestamp) in enumerate(
            zip(items, _times(value["times"], len(items)), strict=True)
        )
    ]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= MAX_ID_BYTES or "\0" in value:
        raise ValueError("an id or name that cannot be stored")
    return value


def _values(values: Any, count: int) -> list[int]:
    if len(values) != count or any(value not in {UNKNOWN, 0, 1} for value in values):
        raise ValueError("feedback that is not -1, 0 or 1 for each event")
    return [int(value) for value in values]


def _times(times: Any, count: int) -> list[int]:
    if len(times) != count or any(
        type(time) is not int or not 0 <= time <= LATEST_S for time in times
    ):
        raise ValueError("times that are not whole seconds for each event")
    return list(times)


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """A binary file's lines, none much longer than a dump's may be."""
    return iter(lambda: file.readline(MOST_LINE_BYTES + 1), b"")
