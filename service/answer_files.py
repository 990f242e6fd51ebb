"""The files of an answer log: appended to, bounded, and purged, by any number of processes.

Whoever writes holds the folder's lock. What is appended are whole lines; half a line, left by a
crash, is ended by the next who writes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.answer_log import FILES

#: Rotation deletes this part of the log at a time.
PARTS = 16
#: So long it is known who was forgotten; an answer that began earlier is not written any more.
FORGOTTEN_S = 600.0
LOCK, FORGOTTEN = "lock", "forgotten.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line to be written, whose it is, and when its request came in."""

    user: str  # the hash
    began_at_s: float
    line: bytes


class AnswerFiles:
    """A folder for its owner's eyes. Every call waits for the disk. Raises `OSError`."""

    def __init__(
        self, folder: Path, *, most_bytes: int, most_age_s: float, clock: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._most_bytes, self._most_age_s = most_bytes, most_age_s
        self._clock = clock

    def __repr__(self) -> str:
        return f"<AnswerFiles in {self._folder.name}>"

    def append(self, entries: Sequence[Entry]) -> int:
        """Writes what is nobody's who was forgotten since; how many lines that were.

        Deletes what is too old, and the oldest of what is too much.
        """
        with self._locked():
            now = self._clock()
            forgotten = self._forgotten(now)
            since = now - FORGOTTEN_S
            lines = [
                entry.line
                for entry in entries
                if entry.began_at_s > max(forgotten.get(entry.user, since), since)
            ]
            self._shorten(now)
            self._put(lines, now)
            return len(lines)

    def forget(self, user: str) -> None:
        """Removes every line of a user, and those of requests that began before now."""
        with self._locked():
            now = self._clock()
            self._replace(
                self._folder / FORGOTTEN,
                json.dumps({**self._forgotten(now), user: now}).encode(),
            )
            whose = b'"user":"%s"' % user.encode()  # quotes within a text are escaped
            for file in self._files():
                held = file.read_bytes()
                if whose in held:
                    kept = [line for line in held.splitlines(keepends=True) if whose not in line]
                    self._replace(file, b"".join(kept))
            self._settle()

    def _put(self, lines: Sequence[bytes], now: float) -> None:
        most = self._most_bytes // PARTS
        left = list(reversed(lines))
        while left:
            with self._newest(most, now).open("ab") as out:
                end = out.tell()
                if end and not self._ends(Path(out.name)):
                    end += out.write(b"\n")
                while left and (not end or end + len(left[-1]) <= most):
                    end += out.write(left.pop())
                is_full = bool(left)
            if is_full:
                self._begin(now)
                self._shorten(now)

    @staticmethod
    def _ends(file: Path) -> bool:
        with file.open("rb") as held:
            held.seek(-1, os.SEEK_END)
            return held.read(1) == b"\n"

    def _newest(self, most: int, now: float) -> Path:
        """The file to go on with."""
        files = self._files()
        if not files or files[-1].stat().st_size >= most:
            return self._begin(now)
        is_old = _begun_at_s(files[-1]) < now - self._most_age_s / PARTS
        return self._begin(now) if is_old else files[-1]

    def _begin(self, now: float) -> Path:
        last = max((int(_begun_at_s(file) * 1e3 + 0.5) for file in self._files()), default=0)
        file = self._folder / FILES.replace("*", f"{max(int(now * 1e3), last + 1):015d}")
        file.touch(mode=0o600)
        return file

    def _shorten(self, now: float) -> None:
        """Deletes files that began too long ago, and the oldest until the next part has room."""
        files = self._files()
        total = sum(file.stat().st_size for file in files)
        for file in files:
            is_old = _begun_at_s(file) <= now - self._most_age_s
            if is_old or total > self._most_bytes - self._most_bytes // PARTS:
                total -= file.stat().st_size
                file.unlink()
        for draft in self._folder.glob("*.draft"):  # of whoever died while purging
            draft.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(FILES))

    def _forgotten(self, now: float) -> dict[str, float]:
        """When each user was forgotten who was lately."""
        try:
            known = json.loads((self._folder / FORGOTTEN).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return {user: at_s for user, at_s in known.items() if at_s > now - FORGOTTEN_S}

    def _replace(self, file: Path, data: bytes) -> None:
        """In one step, and not before it is on the disk: half a purge is none."""
        draft = file.with_suffix(".draft")
        draft.touch(mode=0o600)
        with draft.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)

    def _settle(self) -> None:
        """What was replaced stays replaced, whatever happens to the machine."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / LOCK
        file.touch(mode=0o600)
        with file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing lets go of it


def _begun_at_s(file: Path) -> float:
    return int(file.stem.partition("-")[2]) / 1e3
