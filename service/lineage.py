"""Models of one lineage: the same shape, other weights, close enough to lend each other records.

Which fingerprints a lineage has, the newest last, is a note in the store: whoever comes later finds
records of those before by it.
"""

from __future__ import annotations

from contextlib import suppress

import orjson

from cache.base import Cache
from cache.errors import StaleVersion
from cache.layout import Layout
from models.bundle import Bundle
from models.spec import Spec
from service.registry import Model

#: The note, in the store.
NOTE = "lineages"
MOST = 8
"""Fingerprints that a lineage remembers."""
TRIES = 20

#: By lineage: fingerprints with the shape of their records.
Members = dict[str, list[tuple[str, str]]]


async def join(cache: Cache, bundle: Bundle) -> list[str]:
    """Makes a bundle known to its lineage; the other fingerprints of its shape, newest first.

    Raises `CacheUnavailable`.
    """
    if bundle.lineage is None or not bundle.spec.cached_depths:
        return []
    return await join_as(cache, bundle.lineage, bundle.fingerprint, bundle.spec)


async def join_as(cache: Cache, lineage: str, fingerprint: str, spec: Spec) -> list[str]:
    """The same for records that are no bundle's, as a stream in training leaves them."""
    own = (fingerprint, _shape(spec))
    others: list[tuple[str, str]] = []
    for _ in range(TRIES):
        note = await cache.note(NOTE)
        lineages = _decoded(note)
        members = lineages.get(lineage, [])
        others = [member for member in members if member[0] != own[0]]
        if members[-1:] == [own]:
            break
        lineages[lineage] = [*others, own][-MOST:]
        with suppress(StaleVersion):
            await cache.replace_note(NOTE, note, orjson.dumps(lineages))
            break
    return [fingerprint for fingerprint, shape in reversed(others) if shape == own[1]]


class Lineages:
    """Whose records a model may borrow."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._elders: dict[str, list[Layout]] = {}

    def __repr__(self) -> str:
        return f"<Lineages of {len(self._elders)} models>"

    async def elders(self, model: Model) -> list[Layout]:
        """Layouts of the fingerprints before a model's, the newest first; asked for once."""
        known = self._elders.get(model.fingerprint)
        if known is None:
            spec, found = model.spec, await join(self._cache, model.bundle)
            known = [Layout(fingerprint, spec.row, spec.reach) for fingerprint in found]
            self._elders[model.fingerprint] = known
        return known


def _shape(spec: Spec) -> str:
    counted = f" {spec.history_where}" if spec.history_where else ""
    return f"{spec.family} {spec.row.descr} {spec.depth} {spec.window}{counted}"


def _decoded(note: bytes) -> Members:
    """What cannot be read is begun anew: nothing but time is lost."""
    try:
        return {
            str(name): [(str(fingerprint), str(shape)) for fingerprint, shape in members]
            for name, members in orjson.loads(note or b"{}").items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
