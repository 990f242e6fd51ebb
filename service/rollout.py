"""What all processes on a store are to serve: one small value, changed only as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

import orjson

from service.errors import Conflict, InvalidRequest, NotFound

#: The note that it is, in the store.
NOTE = "models"


class BadRollout(ValueError):
    """A note that is none of ours, or one of a later Marmot."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version that is to be loaded."""

    #: The folder's name in `models_dir`.
    bundle: str
    fingerprint: str
    canary_percent: float = 0.0
    shadow_percent: float = 0.0
    #: How often somebody asked for it: what failed is tried again when somebody asks again.
    asked: int = 1
    #: Whether its records are built from the stored timelines. Not those of who was there first.
    is_rebuilt: bool = True


@dataclass(frozen=True, slots=True)
class Rollout:
    """Which versions are loaded, which of them answers, and what share of users others get."""

    active: str
    entries: Mapping[str, Entry]
    #: Fingerprints whose records are to be deleted.
    swept: tuple[str, ...] = ()
    #: Grows with every change: no two of them are the same bytes.
    serial: int = 0

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Raises `BadRollout`."""
        try:
            found = orjson.loads(value)
            entries = {version: Entry(**entry) for version, entry in found["entries"].items()}
            rollout = cls(found["active"], entries, tuple(found["swept"]), int(found["serial"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRollout("the store's note about models cannot be read") from error
        if rollout.active not in entries:
            raise BadRollout("the store's note about models names no active one")
        return rollout

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    def with_version(self, version: str, bundle: str, fingerprint: str) -> Rollout:
        """A version to load, or to try again; its name may not mean two things."""
        known = self.entries.get(version)
        if known is None:
            entry = Entry(bundle, fingerprint)
        elif known.fingerprint != fingerprint:
            raise Conflict(f"version {version} is loaded already, with other weights")
        else:
            entry = replace(known, bundle=bundle, asked=known.asked + 1)
        kept = tuple(swept for swept in self.swept if swept != fingerprint)
        return self._next(entries={**self.entries, version: entry}, swept=kept)

    def activated(self, version: str) -> Rollout:
        """The version answers wherever a request names none."""
        entry = replace(self._entry(version), canary_percent=0.0, shadow_percent=0.0)
        return self._next(active=version, entries={**self.entries, version: entry})

    def with_share(
        self, version: str, *, canary_percent: float | None, shadow_percent: float | None
    ) -> Rollout:
        """So many percent of the users get the version, or of the requests its shadow."""
        entry = self._entry(version)
        if version == self.active:
            raise Conflict(f"version {version} is the active one: it answers what is left")
        if canary_percent is not None:
            entry = replace(entry, canary_percent=canary_percent)
        if shadow_percent is not None:
            entry = replace(entry, shadow_percent=shadow_percent)
        entries = {**self.entries, version: entry}
        if sum(each.canary_percent for each in entries.values()) > 100:
            raise InvalidRequest("the canaries together would get more than 100 percent")
        return self._next(entries=entries)

    def without(self, version: str) -> Rollout:
        """The version goes, and its records with it unless another one has the same."""
        gone = self._entry(version)
        if version == self.active:
            raise Conflict(f"version {version} is the active one; activate another one first")
        entries = {name: entry for name, entry in self.entries.items() if name != version}
        is_shared = any(entry.fingerprint == gone.fingerprint for entry in entries.values())
        is_known = gone.fingerprint in self.swept
        more = () if is_shared or is_known else (gone.fingerprint,)
        return self._next(entries=entries, swept=(*self.swept, *more))

    def without_swept(self, fingerprint: str) -> Rollout:
        """The records of a fingerprint are gone."""
        return self._next(swept=tuple(left for left in self.swept if left != fingerprint))

    def _entry(self, version: str) -> Entry:
        entry = self.entries.get(version)
        if entry is None:
            raise NotFound(f"version {version} is not loaded; there is {', '.join(self.entries)}")
        return entry

    def _next(
        self,
        *,
        active: str | None = None,
        entries: Mapping[str, Entry] | None = None,
        swept: tuple[str, ...] | None = None,
    ) -> Rollout:
        return Rollout(
            self.active if active is None else active,
            self.entries if entries is None else entries,
            self.swept if swept is None else swept,
            self.serial + 1,
        )
