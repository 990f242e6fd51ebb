"""The answer log: a sample of what was answered, for `marmot evaluate --replay`.

It is written down after the answer, on another thread, a second's worth at a time. Users are in it
by a keyed hash, and no history is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from models.answer_log import AnswerLogError, UserHash
from service.answer_files import AnswerFiles, Entry
from service.errors import LogAway, StartError, UsageError
from service.logging import log
from service.question import Question
from service.settings import Settings

WRITE_EVERY_S = 1.0
SWEEP_EVERY_S = 3_600.0
MOST_WAITING = 4_096
"""Answers that may wait to be written; more are dropped, and counted."""

#: Called with what became of sampled answers, and of how many.
OnLogged = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Noted:
    """An answer on its way to the disk."""

    began_at_s: float
    answered_at_s: float
    user_id: str
    timestamp: int
    candidates: Sequence[int | str]
    answer: dict[str, Any]

    def entry(self, hashed: UserHash) -> Entry:
        user, answer = hashed(self.user_id), self.answer
        line = {
            "answered_at_s": round(self.answered_at_s, 3),
            "timestamp": self.timestamp,
            "user": user,
            "model": answer["model"],
            "state": answer["cache"]["state"],
            "degraded": answer["degraded"],
            "candidates": [str(item) for item in self.candidates],
            "scores": answer["scores"],
        }
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        return Entry(user, self.began_at_s, orjson.dumps(line, option=options))


class AnswerLog:
    """Picks answers and has them written; purges those of a user."""

    def __init__(
        self,
        folder: Path,
        hashed: UserHash,
        *,
        share: float,
        most_bytes: int,
        most_age_s: float,
        on_logged: OnLogged,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hashed, self._share = hashed, share
        self._on_logged, self._clock = on_logged, clock
        self._files = AnswerFiles(folder, most_bytes=most_bytes, most_age_s=most_age_s, clock=clock)
        self._waiting: list[Noted] = []
        self._some, self._stop = asyncio.Event(), asyncio.Event()
        self._files.append([])  # a folder that cannot be written is known at the start
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __repr__(self) -> str:
        return f"<AnswerLog of {self._share:.3%}, {len(self._waiting)} waiting>"

    def wants_next(self) -> bool:
        """Whether the next answer is one of the sample."""
        return random.random() < self._share  # noqa: S311

    def note(
        self, question: Question, candidates: Sequence[int | str], answer: dict[str, Any]
    ) -> None:
        """Remembers an answer until it is written."""
        if len(self._waiting) >= MOST_WAITING:
            self._on_logged("dropped", 1)
            return
        now = self._clock()
        self._waiting.append(
            Noted(
                now - question.timings.total, now, question.user_id, question.timestamp,
                candidates, answer,
            )
        )  # fmt: skip
        self._some.set()

    async def forget(self, user_id: str) -> None:
        """Removes every answer to a user, also those on their way. Raises `LogAway`."""
        try:
            await asyncio.to_thread(self._files.forget, self._hashed(user_id))
        except OSError as error:
            log.error("the answer log was not purged", error=error.strerror)
            raise LogAway from error

    async def close(self) -> None:
        """Writes what waits."""
        self._stop.set()
        self._some.set()
        await self._task

    async def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._some.wait(), SWEEP_EVERY_S)
            with suppress(TimeoutError):  # for company
                await asyncio.wait_for(self._stop.wait(), WRITE_EVERY_S)
            await self._write()

    async def _write(self) -> None:
        self._some.clear()
        waiting, self._waiting = self._waiting, []
        try:
            written = await asyncio.to_thread(self._written, waiting)
        except OSError as error:
            log.warning("answers were not logged", error=error.strerror, answers=len(waiting))
            self._on_logged("failed", len(waiting))
            return
        except Exception:
            log.exception("answers were not logged")
            self._on_logged("failed", len(waiting))
            return
        self._on_logged("written", written)
        self._on_logged("forgotten", len(waiting) - written)

    def _written(self, waiting: list[Noted]) -> int:
        return self._files.append([noted.entry(self._hashed) for noted in waiting])


def open_answer_log(settings: Settings, on_logged: OnLogged) -> AnswerLog | None:
    """What the settings ask for; None if they name no folder."""
    if settings.answer_log is None:
        return None
    if settings.answer_log_key is None:
        raise UsageError(
            "--answer-log takes --answer-log-key, a file with the key that users are hashed with: "
            "`openssl rand -hex -out key 32` makes one"
        )
    try:
        return AnswerLog(
            settings.answer_log,
            UserHash.read(settings.answer_log_key),
            share=settings.answer_log_share,
            most_bytes=settings.answer_log_mib << 20,
            most_age_s=settings.answer_log_days * 86_400,
            on_logged=on_logged,
        )
    except AnswerLogError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise StartError(
            f"the answer log {settings.answer_log} cannot be written: {error.strerror}"
        ) from error
