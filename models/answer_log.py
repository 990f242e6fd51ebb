"""The log of sampled answers: what a line says, and who is meant by it. No torch.

`marmot serve --answer-log DIR` writes it and `marmot evaluate --replay DIR` reads it: files of JSON
lines, in the order of their names, each line one answer:

    {"answered_at_s": 1795318352.2, "timestamp": 893286639, "user": "5f0c…",
     "model": {"name": "marmot", "version": "af901b00", "fingerprint": "af90…"}, "state": "hit",
     "degraded": [], "candidates": ["50", "181"], "scores": {"like": [0.93, 0.96]}}
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, Any]

FILES = "answers-*.jsonl"
LEAST_KEY_BYTES = 16
HASH_CHARACTERS = 32  # 128 bits: two users in a billion never meet


class AnswerLogError(ValueError):
    """A log or a key that cannot be used; the message says which and why."""


class UserHash:
    """Users by a keyed hash: HMAC-SHA256. Without the key nobody can tell whose it is."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "<UserHash>"

    @classmethod
    def read(cls, file: Path) -> Self:
        """With the key in a file, at least 16 bytes; white space around them does not count."""
        try:
            key = file.read_bytes().strip()
        except OSError as error:
            raise AnswerLogError(
                f"the key of the answer log cannot be read: {file}: {error.strerror}; "
                f"`openssl rand -hex -out {file} 32` makes one"
            ) from error
        if len(key) < LEAST_KEY_BYTES:
            raise AnswerLogError(
                f"{file} holds {len(key)} bytes, the key of an answer log at least "
                f"{LEAST_KEY_BYTES}; `openssl rand -hex -out {file} 32` makes one"
            )
        return cls(key)

    def __call__(self, user_id: str) -> str:
        return hmac.digest(self._key, user_id.encode(), "sha256").hex()[:HASH_CHARACTERS]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A log as columns: one place for each answer, and one for each candidate of each answer."""

    users: list[str]  # (answers,) hashes
    versions: list[str]  # (answers,) of the model that answered
    timestamps: Array  # (answers,) int64 seconds
    item_ids: list[str]
    asked: Array  # (candidates,) int64: the answer that each belongs to
    items: Array  # (candidates,) int64, index into item_ids
    scores: dict[str, Array]  # by task: (candidates,) float32, nan where a model has no such task
    #: Lines that are no answers: a crash leaves half of one.
    unreadable: int

    def __repr__(self) -> str:
        return f"<Answers {len(self.users)} with {len(self.items)} candidates>"


def read_answers(folder: Path) -> Answers:
    """Everything in the folder of a log. Raises `AnswerLogError` if there is nothing."""
    users: list[str] = []
    versions: list[str] = []
    timestamps: list[int] = []
    places: dict[str, int] = {}
    items: list[int] = []
    counts: list[int] = []
    scores: dict[str, list[Array]] = {}
    unreadable = 0
    for found in _lines(folder):
        if found is None:
            unreadable += 1
            continue
        count = len(found.candidates)
        for task in scores.keys() | found.scores.keys():
            if task not in scores:  # a later model has it: those before it said nothing of it
                scores[task] = [np.full(sum(counts), np.nan, np.float32)]
            said = found.scores.get(task)
            scores[task].append(np.full(count, np.nan, np.float32) if said is None else said)
        users.append(found.user)
        versions.append(found.version)
        timestamps.append(found.timestamp)
        items += [places.setdefault(item, len(places)) for item in found.candidates]
        counts.append(count)
    if not users:
        raise AnswerLogError(f"no answers in {folder}; `marmot serve --answer-log` writes them")
    return Answers(
        users=users,
        versions=versions,
        timestamps=np.array(timestamps, np.int64),
        item_ids=list(places),
        asked=np.repeat(np.arange(len(users)), counts),
        items=np.array(items, np.int64),
        scores={task: np.concatenate(parts) for task, parts in scores.items()},
        unreadable=unreadable,
    )


@dataclass(frozen=True, slots=True)
class _Line:
    user: str
    version: str
    timestamp: int
    candidates: list[str]
    scores: dict[str, Array]


def _lines(folder: Path) -> Iterator[_Line | None]:
    for file in sorted(folder.glob(FILES)):
        with file.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield _parsed(line)


def _parsed(line: bytes) -> _Line | None:
    """None if it is no answer."""
    try:
        said = json.loads(line)
        found = _Line(
            user=str(said["user"]),
            version=str(said["model"]["version"]),
            timestamp=int(said["timestamp"]),
            candidates=[str(item) for item in said["candidates"]],
            scores={task: np.array(each, np.float32) for task, each in said["scores"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    is_whole = all(each.shape == (len(found.candidates),) for each in found.scores.values())
    return found if is_whole else None
