"""Sim: one layer of target attention over the events that a search finds, nothing cached.

The comparator of `Marm` with search: the same search in the same long history, over raw events
(arXiv 2006.05639).
"""

from __future__ import annotations

from models.raw_history import RawHistory


class Sim(RawHistory):
    """The family without a cache that looks far back."""
