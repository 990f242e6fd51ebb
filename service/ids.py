"""Ids as callers send them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Ids(list[int | str]):
    """Item ids in the order they were sent; where all are numbers, also as one array.

    Reading each of them costs more than anything else that is done with them before the graph
    runs, so it is done once.
    """

    __slots__ = ("numbers",)

    numbers: Array | None
    """(ids,) int64; None if some id is text, or a number that does not fit."""

    def __init__(self, ids: Sequence[Any]) -> None:
        super().__init__(ids)
        try:
            self.numbers = np.frombuffer(array("q", ids), np.int64)
        except (TypeError, OverflowError):
            self.numbers = None
