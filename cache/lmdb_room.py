"""How large an LMDB store may grow, so that it can forget however full its map and its disk are."""

from __future__ import annotations

import errno
import os
from typing import Any

from cache.errors import CacheUnavailable
from cache.raw import Writes

Txn = Any

#: Of the map and of the disk, for deletions alone: to delete, LMDB must write pages first.
HEADROOM_BYTES = 64 << 20
RESERVE_BYTES = 4 << 20
#: Pages of the tree that one write copies, at most, beside its values.
COPIED_PAGES = 16


class Room:
    """Whether a write that adds still fits; asked inside its transaction, so by one at a time.

    The map is larger than what may be stored. Behind the last page of the file, space on the disk
    is taken before it is needed; what cannot be taken is a disk that is full. Where a file system
    gives no such promise, a full disk refuses deletions as well.
    """

    def __init__(self, env: Any, most_bytes: int) -> None:
        self._env, self._most_bytes = env, most_bytes
        self._table = env.open_db()
        self._file = os.path.join(env.path(), "data.mdb")  # noqa: PTH118 - bytes stay bytes
        self._taken_bytes = 0  # of the file, as far as this process knows
        self._last_commit = -1
        self._uncommitted_bytes = 0

    def check(self, txn: Txn, writes: Writes) -> None:
        """Raises `CacheUnavailable` if map or disk have no room for these writes."""
        found = txn.stat(self._table)
        page = found["psize"]
        used = page * (found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"])
        values = (*writes.put_chunks, *writes.put_rows)
        wanted = sum(-(-len(value) // page) * page for _, value in values)
        if used + wanted > self._most_bytes:
            raise CacheUnavailable(f"LMDB is full: {self._most_bytes >> 20:,} MiB are stored.")
        self._take(used, wanted + COPIED_PAGES * page, page)

    def _take(self, used_bytes: int, wanted_bytes: int, page: int) -> None:
        """Has the file so much longer than its last page will be, and the reserve.

        Where it cannot grow, as much must be free between its pages, as deletions leave it.
        """
        info = self._env.info()
        if info["last_txnid"] != self._last_commit:
            self._last_commit, self._uncommitted_bytes = info["last_txnid"], 0
        self._uncommitted_bytes += wanted_bytes
        more = self._uncommitted_bytes + RESERVE_BYTES
        end = (info["last_pgno"] + 1) * page + more
        if end > self._taken_bytes:
            self._taken_bytes = _grow(self._file, end)
        if min(end, used_bytes + more) > self._taken_bytes:
            raise CacheUnavailable("The disk that LMDB writes to is full.")


def _grow(path: str, wanted_bytes: int) -> int:
    """Takes so much of the disk for a file, and some to go on with; how much it has."""
    if not hasattr(os, "posix_fallocate"):
        return wanted_bytes
    file = os.open(path, os.O_RDWR)
    try:
        for size in (wanted_bytes + RESERVE_BYTES, wanted_bytes):
            try:
                os.posix_fallocate(file, 0, size)
            except OSError as failed:
                if failed.errno not in (errno.ENOSPC, errno.EDQUOT):
                    return wanted_bytes  # a file system that makes no such promise
            else:
                return size
        return os.fstat(file).st_size
    finally:
        os.close(file)
