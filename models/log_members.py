"""The files of a log: alone, in a folder, in a zip or a tar, compressed or not; read in blocks."""

from __future__ import annotations

import fnmatch
import gzip
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import IO, cast

from models.event_source import EventsError

BLOCK_BYTES = 8 << 20
#: A row that does not end within this is no row: most likely a quote that nobody closed.
LONGEST_ROW_BYTES = 64 << 20

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True, slots=True)
class Member:
    """One file: what complaints call it, how many bytes it holds (0: not known), how to open it.

    The stamp is another one when the file on disk has changed.
    """

    name: str
    size: int
    stamp: str
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows: where they end in the file, and the line their first one stands on."""

    data: bytes
    first_line: int
    end: int

    @property
    def next_line(self) -> int:
        return self.first_line + self.data.count(b"\n")


def find_members(source: Path, patterns: Sequence[str]) -> list[Member]:
    """The files in `source` whose names match, by name; a file that is no archive is itself one."""
    try:
        if source.is_dir():
            files = sorted(path for path in source.rglob("*") if path.is_file())
            return [_plain(file) for file in files if _matches(file, patterns)]
        if source.name.endswith(".zip"):
            return [m for m in _of_zip(source) if _matches(PurePath(m.name), patterns)]
        if source.name.endswith(_ARCHIVES):
            return [m for m in _of_tar(source) if _matches(PurePath(m.name), patterns)]
        return [_plain(source)] if source.stat() else []
    except FileNotFoundError:
        raise EventsError(f"{source} does not exist") from None
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise EventsError(f"{source} can't be read: {error}") from error


def is_archive(source: Path) -> bool:
    """Whether there may be more than one file in it."""
    return source.is_dir() or source.name.endswith(_ARCHIVES)


def blocks(file: IO[bytes], start: int, line: int, *, is_quoted: bool) -> Iterator[Block]:
    """The rest of a file from byte `start`, which stands on `line`; each block ends with a row.

    Where fields may be quoted, a newline within quotes ends no row.
    """
    file.seek(start)
    kept = b""
    while new := file.read(BLOCK_BYTES):
        kept += new
        cut = _last_end(kept, is_quoted)
        if cut:
            block = Block(kept[:cut], line, start + cut)
            kept, start, line = kept[cut:], block.end, block.next_line
            yield block
        elif len(kept) > LONGEST_ROW_BYTES:
            raise EventsError(f"line {line}: a row does not end within {LONGEST_ROW_BYTES:,} bytes")
    if kept:
        yield Block(kept, line, start + len(kept))


def _last_end(data: bytes, is_quoted: bool) -> int:
    """Just behind the last newline that ends a row; 0 where none does."""
    end = data.rfind(b"\n") + 1
    if not is_quoted or data.count(b'"', 0, end) % 2 == 0:
        return end
    while end and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, data.rfind(b'"', 0, end)) + 1
    return end


def _plain(path: Path) -> Member:
    if path.suffix == ".gz":
        return Member(str(path), 0, _stamp(path), lambda: _gzipped(path))
    return Member(str(path), path.stat().st_size, _stamp(path), lambda: path.open("rb"))


def _gzipped(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb"))


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as folder:
        found = [entry for entry in folder.infolist() if not entry.is_dir()]
    for entry in sorted(found, key=lambda entry: entry.filename):
        name = entry.filename
        yield Member(f"{path}/{name}", entry.file_size, _stamp(path), partial(_zipped, path, name))


def _zipped(path: Path, name: str) -> IO[bytes]:
    return zipfile.ZipFile(path).open(name)


def _of_tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as folder:
        found = [entry for entry in folder if entry.isfile()]
    for entry in sorted(found, key=lambda entry: entry.name):
        name = entry.name
        yield Member(f"{path}/{name}", entry.size, _stamp(path), partial(_tarred, path, name))


def _tarred(path: Path, name: str) -> IO[bytes]:
    file = tarfile.open(path).extractfile(name)  # noqa: SIM115 - the caller reads it
    if file is None:
        raise EventsError(f"{path}: {name} is no file")
    return file


def _matches(path: PurePath, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
