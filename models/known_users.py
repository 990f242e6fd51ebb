"""KnownUsers: whom a bundle has a vector of, by hashes of their ids. Without torch.

No id is in the bundle, but a hash hides none that can be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from models.bundle import Bundle
from models.vocabulary import hash_of

Array = np.ndarray[Any, Any]

#: A tensor of the weights: (users,) int64, the bits of sorted uint64 hashes.
HASHES = "user_hashes"


class KnownUsers:
    """Sorted hashes; a user's row is its place among them plus one, and row 0 is nobody's.

    Ids of one hash share a row: where a billion users are known, chance gives one unknown id in
    twenty billion the row of one of them.
    """

    def __init__(self, hashes: Array) -> None:
        self.hashes = hashes

    def __len__(self) -> int:
        return len(self.hashes)

    def __repr__(self) -> str:
        return f"<KnownUsers, {len(self)} of them>"

    @classmethod
    def of(cls, user_ids: Iterable[str]) -> Self:
        return cls(np.unique(np.fromiter(map(hash_of, user_ids), np.uint64)))

    @classmethod
    def read(cls, bundle: Bundle) -> Self:
        """Of a bundle; nobody if it was trained without `--user-embedding`."""
        if not bundle.spec.user_embedding:
            return cls.of(())
        return cls(np.frombuffer(bundle.weight(HASHES), np.uint64))

    def row(self, user_id: str, events: int) -> int:
        """The row of a user of whom so many events are known; without any it is nobody's.

        So whom the store has forgotten, or never met, gets what everybody gets.
        """
        if not events or not len(self):
            return 0
        wanted = np.uint64(hash_of(user_id))
        place = int(np.searchsorted(self.hashes, wanted))
        return place + 1 if place < len(self) and self.hashes[place] == wanted else 0
