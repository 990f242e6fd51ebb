"""What the routes serve from: everything that is opened once and closed once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from cache.base import Cache, Sweeps
from cache.errors import BadCacheUrl, CacheError, CacheMismatch
from cache.open import open_cache
from models.bundle import BundleError, load_bundle
from service.batcher import COST_PER_MS, Batcher
from service.chores import Chores
from service.cpus import threads_for
from service.drain import Drain
from service.engine import Engine
from service.errors import ServiceError, StartError, UsageError
from service.explainer import Explainer
from service.logging import log
from service.metrics import Metrics
from service.ranker import Ranker
from service.recorder import Recorder
from service.registry import Model, Registry
from service.schemas import Limits
from service.selftest import self_test, warm_up
from service.settings import Settings
from service.sweeper import Sweeper


@dataclass(eq=False)
class House:
    """One process of the service. Empty until `open` is entered."""

    settings: Settings
    metrics: Metrics
    limits: Limits
    drain: Drain
    registry: Registry = field(default_factory=Registry)
    in_flight: int = 0
    is_warm: bool = False
    start_error: ServiceError | None = None
    fingerprint: bytes = b""
    cache: Cache = field(init=False)
    chores: Chores = field(init=False)
    ranker: Ranker = field(init=False)
    recorder: Recorder = field(init=False)
    explainer: Explainer = field(init=False)

    def __repr__(self) -> str:
        state = "warm" if self.is_warm else "cold"
        return f"<House {state}, {self.in_flight} in flight, {self.registry!r}>"

    @classmethod
    def of(cls, settings: Settings) -> House:
        limits = Limits(
            max_candidates=settings.max_candidates,
            max_history=settings.max_history,
            max_events=settings.max_events,
            max_batch=settings.max_batch,
            max_explained=settings.max_explained,
        )
        metrics = Metrics(settings.worker_metrics_dir)
        return cls(settings, metrics, limits, Drain(settings.drain_s))

    @property
    def is_ready(self) -> bool:
        return self.is_warm and not self.drain.has_begun

    @asynccontextmanager
    async def open(self, cache: Cache | None = None) -> AsyncIterator[None]:
        """Opens every part in order; they are closed in reverse."""
        try:
            async with AsyncExitStack() as stack:
                await self._furnish(stack, cache)
                self.is_warm = True
                log.info("ready", **self.registry.active.name)
                yield
        except ServiceError as error:
            self.start_error = error
            raise

    async def _furnish(self, stack: AsyncExitStack, cache: Cache | None) -> None:
        settings = self.settings
        model = open_model(settings, stack, self.metrics)
        if cache is None:
            cache = await open_store(settings, model, self.metrics)
            stack.push_async_callback(cache.close)
        self.cache = cache
        if isinstance(cache, Sweeps):
            stack.push_async_callback(Sweeper(cache, settings.sweep_every_s).close)
        self.chores = Chores(on_error=lambda error: log.warning("chore failed", error=repr(error)))
        stack.push_async_callback(self.chores.close)
        self.registry.add(model)
        self.fingerprint = model.fingerprint.encode()
        self.ranker = Ranker(
            cache,
            self.registry,
            self.chores,
            self.metrics,
            default_deadline_ms=settings.default_deadline_ms,
            near_bytes=settings.near_mib << 20,
        )
        self.recorder = Recorder(cache, deadline_s=settings.write_deadline_s)
        self.explainer = Explainer(
            cache, self.registry, default_deadline_ms=settings.default_deadline_ms
        )
        await warm_up(model)
        await self_test(model)
        self.metrics.loaded(model.name)
        stack.callback(self.drain.finish)
        self.drain.install()


def open_model(settings: Settings, stack: AsyncExitStack, metrics: Metrics | None = None) -> Model:
    """The settings' bundle on an engine of its own, closed with the stack."""
    try:
        bundle = load_bundle(settings.bundle)
    except BundleError as error:
        raise StartError(str(error)) from error
    threads = settings.threads or threads_for(settings.workers)
    engine = Engine(bundle, provider=settings.provider, threads=threads)
    stack.callback(engine.close)
    batcher = Batcher(
        engine,
        queue_limit=int(settings.queue_limit_ms * COST_PER_MS),
        on_batch=metrics.batch if metrics else None,
    )
    stack.push_async_callback(batcher.close)
    return Model.of(bundle, engine, batcher)


async def open_store(settings: Settings, model: Model, metrics: Metrics | None = None) -> Cache:
    """The store that the settings name, told how much this model needs kept."""
    try:
        return await open_cache(
            settings.cache,
            keep=settings.keep,
            least_keep=model.spec.least_keep,
            record_ttl_s=settings.record_ttl_s,
            timeline_ttl_s=settings.timeline_ttl_s,
            timeout_s=settings.store_timeout_ms / 1e3,
            on_event=metrics.store_event if metrics else _ignore,
        )
    except (BadCacheUrl, CacheMismatch) as error:
        raise UsageError(str(error)) from error
    except CacheError as error:
        raise StartError(str(error)) from error


def _ignore(_event: str) -> None:
    return
