"""What the bench asks: users whose history everybody knows, and candidates drawn once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path

import numpy as np
import orjson

from loadtest.processes import BenchError
from loadtest.traffic import Request

LISTS = 32  # different candidate lists
USERS = 32  # whose records are in the store, and as many whose are not
BEGAN_S = 1_000_000_000  # as in service/bare_cache.py, so that sent histories are the stored ones
STEP_S = 1_000

Item = int | str


class Deck:
    """Requests of one size, dealt over and over."""

    def __init__(self, items: Sequence[Item], candidates: int, records: int) -> None:
        random = np.random.default_rng(0)
        repeats = candidates > len(items)
        self.candidates = candidates
        self.known_users = users(f"known-{records}")
        self.fresh_users = users(f"fresh-{records}-{candidates}")
        self.spent = list(self.fresh_users)
        """Those that have to be made fresh again: at first all of them."""
        self._lists = cycle(
            orjson.dumps([items[place] for place in draw.tolist()])
            for draw in (
                random.choice(len(items), candidates, replace=repeats) for _ in range(LISTS)
            )
        )
        self._random = random
        self._history = orjson.dumps(
            [
                {"item_id": items[n % len(items)], "timestamp": BEGAN_S + STEP_S * n}
                for n in range(records)
            ]
        )
        self._known = cycle(self.known_users)

    def known(self) -> Iterator[Request]:
        """Users whose records are in the store, without end."""
        while True:
            yield self.of(next(self._known))

    def inline(self) -> Iterator[Request]:
        """The same users' histories, sent along: everything is computed again."""
        while True:
            yield self.of(next(self._known), b',"history":' + self._history)

    def strangers(self) -> Iterator[Request]:
        """Users of whom nothing is known, each a new one."""
        for number in count():
            yield self.of(f"bench-stranger-{number}")

    def mixed(self, hit_rate: float) -> Iterator[Request]:
        """Known users, a share of `hit_rate`, and fresh ones: over when each fresh one was asked.

        Where all are known there is no end.
        """
        fresh = iter(self.fresh_users)
        while True:
            if self._random.random() < hit_rate:
                yield self.of(next(self._known))
            elif (user := next(fresh, None)) is not None:
                self.spent.append(user)
                yield self.of(user)
            else:
                return

    def of(self, user: str, more: bytes = b"") -> Request:
        """The next candidates, for this user."""
        body = b'{"user_id":"%b","candidates":%b%b}' % (user.encode(), next(self._lists), more)
        return Request("rank", "/v1/rank", body)


def users(kind: str) -> list[str]:
    """Names of users."""
    return [f"bench-{kind}-{number}" for number in range(USERS)]


def items_of(bundle: Path) -> list[Item]:
    """The vocabulary; numbers where ids are written like numbers, as callers send them."""
    # Slow to import, and loaded with every `marmot` command: only this function needs it.
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        column = pyarrow.parquet.read_table(bundle / "items.parquet", columns=["item_id"])
    except FileNotFoundError:
        raise BenchError(
            f"no bundle at {bundle}; `marmot train --out {bundle}` makes one"
        ) from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise BenchError(f"{bundle}: no items can be read from it") from error
    texts: list[str] = column["item_id"].to_pylist()
    return [int(text) if re.fullmatch(r"0|[1-9][0-9]{0,14}", text) else text for text in texts]
