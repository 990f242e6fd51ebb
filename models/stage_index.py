"""An inverted file over retrieval's table (FAISS), for catalogues that are too large to multiply.

It finds nearly what the exact search finds; how nearly is measured when it is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

INDEX = "items.faiss"
#: What is looked through grows until this share of the exact best is found.
WANTED, K = 0.97, 100
MOST_TRAINED = 200_000


class IndexMissing(Exception):
    """FAISS is asked for and is not installed."""


def faiss() -> Any:
    """The library, an extra."""
    try:
        import faiss as found  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise IndexMissing("there is no FAISS here: pip install 'marmot[faiss]'") from error
    return found


def build_index(table: Array, users: Array) -> tuple[Any, dict[str, Any]]:
    """An index of `table` (items, width + 1), and its recall for `users` (U, width + 1).

    A user's last column is no part of the product: the table's last column is a bias.
    """
    library = faiss()
    width, lists = table.shape[1], max(1, min(int(4 * len(table) ** 0.5), len(table) // 40))
    quantizer = library.IndexFlatIP(width)
    index = library.IndexIVFFlat(quantizer, width, lists, library.METRIC_INNER_PRODUCT)
    quantizer.this.disown()
    index.own_fields = True
    some = np.random.default_rng(0).permutation(len(table))[:MOST_TRAINED]
    index.train(table[some])
    index.add(table)
    queries = np.concatenate([users[:, :-1], np.ones_like(users[:, :1])], axis=1)
    k = min(K, len(table))
    # One user at a time: all their scores of millions of items would be gigabytes.
    exact = [np.argpartition(-(table @ query), k - 1)[:k] for query in queries]
    index.nprobe, recall = 1, 0.0
    while True:
        found = index.search(queries, k)[1]
        recall = float(np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]))
        if recall >= WANTED or index.nprobe >= lists:
            break
        index.nprobe = min(lists, 2 * index.nprobe)
    told = {"lists": lists, "probes": index.nprobe, f"recall@{k}": round(recall, 4)}
    return index, {**told, "users": len(queries)}


def write_index(index: Any, folder: Path) -> None:
    """Into a bundle."""
    faiss().write_index(index, str(folder / INDEX))


def read_index(folder: Path) -> Any | None:
    """Of a bundle; None if it searches exactly."""
    file = folder / INDEX
    return faiss().read_index(str(file)) if file.is_file() else None
