"""The way from items to vectors that a spec asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.embeddings.banded import AutoEmb, Banded
from models.embeddings.full import Full
from models.embeddings.hashing import Hashed
from models.embeddings.item_table import ItemTable
from models.embeddings.quotient import Quotient
from models.embeddings.searching import Searching
from models.embeddings.shared_array import Lma, Robe
from models.spec import Spec

_SHARED: Mapping[str, Callable[[int, int, int, int], ItemTable]] = {
    "hash": Hashed,
    "qr": Quotient,
    "robe": Robe,
    "lma": Lma,
}
_BANDED = {"mixed": Banded, "autodim": Banded, "autoemb": AutoEmb}


def item_table(spec: Spec, items: int) -> ItemTable:
    """The table of a model's items, and of the shared rows behind them."""
    rows, fallback = items + spec.fallback_rows, spec.fallback_rows
    if kind := _BANDED.get(spec.embedding):
        if not spec.embedding_widths:
            return Searching(rows, spec.width, fallback, spec.compression)
        return kind(rows, spec.width, fallback, spec.embedding_widths)
    if spec.embedding == "full":
        return Full(rows, spec.width, fallback)
    budget = rows * spec.width // spec.compression
    return _SHARED[spec.embedding](rows, spec.width, fallback, budget)
