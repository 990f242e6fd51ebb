"""Follows what the store says is to be served: loads, switches and lets go, and never in between.

Every process follows by itself, within `poll_s`; where a change was made it is followed at once.
What cannot be followed here (a folder that is not there, a bundle that is refused) is `failed`, and
whatever answered before goes on. While the store is away nothing changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable, StaleVersion
from service.errors import Conflict, Contended, NotFound, ServiceError, StartError, StoreAway
from service.logging import log
from service.metrics import Metrics
from service.registry import Model, Registry, Split
from service.rollout import NOTE, BadRollout, Entry, Rollout
from service.schemas import Activation
from service.selftest import self_test, warm_up
from service.shelf import Shelf

LOAD_S = 60.0
"""How long an activation waits for the version to be loaded where it is asked for."""

TRIES = 20
"""How often a change is made anew when others change the rollout at the same time."""


@dataclass(slots=True, eq=False)
class Standing:
    """How far this process has come with a version."""

    entry: Entry
    state: str = "loading"
    problem: str | None = None
    model: Model | None = None
    #: Loads it, if it is being loaded.
    task: asyncio.Task[None] | None = None


class Rollouts:
    """The versions of this process, and the commands that change those of all."""

    def __init__(
        self,
        cache: Cache,
        registry: Registry,
        metrics: Metrics,
        *,
        base: Model,
        folder: Path | None,
        make: Callable[[Path], Model],
        poll_s: float = 1.0,
    ) -> None:
        self._cache, self._registry, self._metrics = cache, registry, metrics
        self._shelf = Shelf(folder) if folder else None
        self._make = make
        self._poll_s = poll_s
        entry = Entry(base.bundle.path.resolve().name, base.fingerprint, is_rebuilt=False)
        self._standings = {base.version: Standing(entry, "ready", model=base)}
        self._base = base.version
        #: What was read last; None before anybody has loaded or activated anything.
        self.wanted: Rollout | None = None
        self._seen = b""
        self._loading = asyncio.Lock()
        self._following = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        metrics.stands(base.version, base.fingerprint, "ready")
        metrics.answers(base.name)

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {each.state}" for name, each in self._standings.items())
        return f"<Rollouts {states}>"

    async def begin(self) -> None:
        """Follows once, up to the version that is to answer, and goes on in the background.

        A store that is away is followed as soon as it is back; until then the base answers.
        """
        if self._shelf is None:
            return
        try:
            await self._follow()
        except (CacheUnavailable, CacheMismatch) as error:
            log.warning("the models to serve are not known yet", error=str(error))
        if self.wanted and (task := self._standings[self.wanted.active].task):
            await task
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Lets what loads, and what is let go, finish."""
        self._stop.set()
        if self._task is not None:
            await self._task
        tasks = [each.task for each in self._standings.values() if each.task]
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)

    def ready(self) -> dict[str, Model]:
        """The versions that could answer here."""
        return {name: each.model for name, each in self._standings.items() if each.model}

    async def load(self, name: str) -> dict[str, Any]:
        """Asks every process to load a bundle from the models directory."""
        shelf = self._open_shelf()
        label = await asyncio.to_thread(shelf.read, name)
        await self.change(lambda now: now.with_version(label.version, name, label.fingerprint))
        return self._described(label.version)

    async def activate(self, version: str, activation: Activation) -> dict[str, Any]:
        """Gives a version its share, here before this returns: all, some users, or a shadow.

        Whoever saw it ready elsewhere need not know that this process is still loading it.
        """
        self._open_shelf()
        await self._caught_up()
        standing = self._standings.get(version)
        if standing is not None and standing.task is not None:
            await asyncio.wait([standing.task], timeout=LOAD_S)
        if standing is not None and standing.state != "ready":
            raise Conflict(f"version {version} is {standing.state} here; it must be ready")
        await self.change(lambda now: _activated(now, version, activation))
        return self._described(version)

    async def remove(self, version: str) -> None:
        """Asks every process to let a version go, and somebody to delete its records."""
        self._open_shelf()
        await self.change(lambda now: now.without(version))

    async def change(self, work: Callable[[Rollout], Rollout]) -> None:
        """Changes what all are to serve, and follows it here."""
        try:
            for _ in range(TRIES):
                await self._follow()
                now = self.wanted or self._first()
                with suppress(StaleVersion):
                    await self._cache.replace_note(NOTE, self._seen, work(now).encode())
                    return await self._follow()
        except (CacheUnavailable, CacheMismatch) as error:
            raise StoreAway("The store is not reachable; nothing was changed") from error
        raise Contended("Others change the models at the same time; nothing was changed")

    def report(self) -> list[dict[str, Any]]:
        """Every version as it stands in this process."""
        return [self._described(version) for version in self._standings]

    def _first(self) -> Rollout:
        """How things are before anybody has changed them: the base answers."""
        return Rollout(self._base, {self._base: self._standings[self._base].entry})

    def _open_shelf(self) -> Shelf:
        if self._shelf is None:
            raise NotFound("this service has no models directory (--models-dir): one bundle only")
        return self._shelf

    def _described(self, version: str) -> dict[str, Any]:
        standing = self._standings[version]
        entry, model = standing.entry, standing.model
        return {
            "name": model.bundle.name if model else None,
            "version": version,
            "fingerprint": entry.fingerprint,
            "family": model.spec.family if model else None,
            "state": standing.state,
            "active": model is not None and model is self._registry.active,
            "canary_percent": entry.canary_percent if model else 0.0,
            "shadow_percent": entry.shadow_percent if model else 0.0,
            "problem": standing.problem,
        }

    async def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._poll_s)
            try:
                await self._follow()
            except (CacheUnavailable, CacheMismatch):
                continue  # ranking says so already
            except Exception:
                log.exception("the models to serve could not be followed")

    async def _caught_up(self) -> None:
        try:
            await self._follow()
        except (CacheUnavailable, CacheMismatch) as error:
            raise StoreAway("The store is not reachable; nothing was changed") from error

    async def _follow(self) -> None:
        """Reads what all are to serve, and does what is new in it."""
        async with self._following:
            note = await self._cache.note(NOTE)
            if note == self._seen:
                return
            self._seen = note
            if not note:
                return  # a store that was emptied changes nothing here
            try:
                self.wanted = Rollout.decode(note)
            except BadRollout as error:
                log.error("the models stay as they are", reason=str(error))
                return
            self._apply(self.wanted)

    def _apply(self, wanted: Rollout) -> None:
        for version in sorted(wanted.entries, key=lambda name: name != wanted.active):
            entry = wanted.entries[version]
            known = self._standings.get(version)
            is_new = known is None or known.entry.fingerprint != entry.fingerprint
            if (
                known is None
                or is_new
                or (known.state == "failed" and known.entry.asked < entry.asked)
            ):
                if known is not None and known.model is not None:
                    self._let_go(version, known)
                standing = self._standings[version] = Standing(entry)
                self._metrics.stands(version, entry.fingerprint, "loading")
                standing.task = asyncio.create_task(self._load(version, standing))
            else:
                known.entry = entry
        self._settle()

    async def _load(self, version: str, standing: Standing) -> None:
        async with self._loading:  # one after the other: the others have to answer meanwhile
            model = None
            try:
                path = self._open_shelf().find(standing.entry.bundle)
                model = await asyncio.to_thread(self._make, path)
                self._stands(version, standing, "warming")
                await self._try(model, standing.entry)
            except (ServiceError, CacheUnavailable, CacheMismatch) as error:
                standing.problem = _sentence(error, self._shelf)
            except Exception:
                log.exception("a bundle could not be loaded", version=version)
                standing.problem = "it could not be loaded; the log says why"
            if self._standings.get(version) is not standing:
                standing.problem = "another one is wanted by now"
            if standing.problem is None and model is not None:
                standing.model = model
                self._registry.add(model)
                self._stands(version, standing, "ready")
                log.info("loaded", **model.name)
            else:
                self._stands(version, standing, "failed")
                log.error("not loaded", version=version, reason=standing.problem)
                if model is not None:
                    await model.close()
        standing.task = None
        self._settle()

    async def _try(self, model: Model, entry: Entry) -> None:
        """Raises what speaks against serving it."""
        if model.fingerprint != entry.fingerprint:
            raise StartError(
                f"the folder {entry.bundle} holds the fingerprint {model.fingerprint}, "
                f"not {entry.fingerprint}"
            )
        keep = await self._kept()
        if keep < model.spec.least_keep:
            raise StartError(
                f"the store keeps {keep} events per user, but it needs {model.spec.least_keep}"
            )
        await warm_up(model)
        await self_test(model)

    async def _kept(self) -> int:
        """How many events of each user the store keeps; asked until it answers."""
        while True:
            try:
                return (await self._cache.fetch("nobody", limit=1)).keep
            except CacheUnavailable:
                if self._stop.is_set():
                    raise
                await asyncio.sleep(self._poll_s)

    def _stands(self, version: str, standing: Standing, state: str) -> None:
        standing.state = state
        if self._standings.get(version) is standing:
            self._metrics.stands(version, standing.entry.fingerprint, state)

    def _settle(self) -> None:
        """Who answers whom, as far as the models are there; who is not wanted any more goes."""
        wanted = self.wanted
        if wanted is None:
            return
        ready = self.ready()
        active = ready.get(wanted.active, self._registry.active)
        others = [
            (wanted.entries[name], model)
            for name, model in ready.items()
            if name in wanted.entries and model is not active
        ]
        if active is not self._registry.active:
            log.info("active", **active.name)
            self._metrics.answers(active.name)
        self._registry.split = Split.of(
            active,
            [(entry.canary_percent, model) for entry, model in others if entry.canary_percent],
            [(entry.shadow_percent, model) for entry, model in others if entry.shadow_percent],
        )
        for version, standing in list(self._standings.items()):
            is_gone = version not in wanted.entries and standing.task is None
            if is_gone and (standing.model is None or standing.model is not active):
                del self._standings[version]
                self._let_go(version, standing)

    def _let_go(self, version: str, standing: Standing) -> None:
        """Requests that are with it are finished first."""
        self._metrics.stands(version, standing.entry.fingerprint, "")
        if standing.model is not None:
            self._registry.drop(standing.model)
            task = asyncio.create_task(standing.model.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _activated(now: Rollout, version: str, activation: Activation) -> Rollout:
    if activation.is_switch:
        return now.activated(version)
    return now.with_share(
        version,
        canary_percent=activation.canary_percent,
        shadow_percent=activation.shadow_percent,
    )


def _sentence(error: Exception, shelf: Shelf | None) -> str:
    """Without where the folder lies: that is the operator's business."""
    return str(error) if shelf is None else shelf.without_place(str(error))
