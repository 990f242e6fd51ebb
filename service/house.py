"""What the routes serve from: everything that is opened once and closed once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cache.base import Cache, Sweeps
from cache.errors import BadCacheUrl, CacheError, CacheMismatch, CacheUnavailable
from cache.open import open_cache
from models.bundle import BundleError, load_bundle
from models.spec import PROJECTED, PROJECTED_INT8
from service.admission import Admission
from service.answer_log import AnswerLog, open_answer_log
from service.auth import Guard
from service.batcher import Batcher
from service.buckets import Buckets
from service.caller import Callers
from service.chores import Chores
from service.cpus import threads_for
from service.drain import Drain
from service.engine import Engine
from service.errands import Errands
from service.errors import ServiceError, StartError, UsageError
from service.explainer import Explainer
from service.feed import Feed
from service.garbage import start_spared
from service.handout import Handout
from service.job import Lane
from service.lineage import Lineages, join
from service.logging import log
from service.metrics import Metrics
from service.pace import COST_PER_MS
from service.preranker import Preranker
from service.ranker import Ranker
from service.recommender import Recommender
from service.recorder import Recorder
from service.registry import Model, Registry
from service.release import release
from service.retriever import Retriever
from service.rollouts import Rollouts
from service.schemas import Limits
from service.selftest import self_test, warm_up
from service.settings import Settings
from service.stage import check_stage
from service.stale import Stale
from service.status import Status
from service.sweeper import Sweeper
from service.tracing import Tracer
from service.truth import Truth


@dataclass(eq=False)
class House:
    """One process of the service. Empty until `open` is entered."""

    settings: Settings
    metrics: Metrics
    limits: Limits
    drain: Drain
    registry: Registry = field(default_factory=Registry)
    in_flight: int = 0
    callers: Callers = field(default_factory=Callers)
    is_warm: bool = False
    start_error: ServiceError | None = None
    #: Who asks each caller for a key; None where no keys are configured.
    guard: Guard | None = None
    #: Tells a collector of each request; None where none is named.
    tracer: Tracer | None = None
    #: Where a sample of the answers goes; None unless the settings name a folder.
    answer_log: AnswerLog | None = None
    cache: Cache = field(init=False)
    chores: Chores = field(init=False)
    rollouts: Rollouts = field(init=False)
    #: What this process may do for all others; None where one bundle is all there is.
    errands: Errands | None = None
    ranker: Ranker = field(init=False)
    recorder: Recorder = field(init=False)
    explainer: Explainer = field(init=False)
    status: Status = field(init=False)
    #: Who watches the status.
    feed: Feed = field(init=False)
    handout: Handout = field(init=False)
    #: Stages before ranking; None where the service was started without one.
    retrieval: Retriever | None = None
    prerank: Preranker | None = None
    recommender: Recommender | None = None

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
            max_retrieved=settings.max_retrieved,
            max_preranked=settings.max_preranked,
            max_recommended=settings.chain_preranked,
        )
        metrics = Metrics(settings.worker_metrics_dir)
        return cls(settings, metrics, limits, Drain(settings.drain_s))

    @property
    def is_ready(self) -> bool:
        return self.is_warm and not self.drain.has_begun

    @property
    def admission(self) -> Admission:
        """Asked before it is known who answers: most often it is the active one."""
        return self.registry.split.active.admission

    @property
    def event_admission(self) -> Admission:
        """The same for events, which wait behind ranking."""
        return self.registry.active.event_admission

    @property
    def fingerprint(self) -> bytes:
        """Of the active bundle; empty before there is one."""
        return self.registry.active.fingerprint.encode() if self.is_warm else b""

    @asynccontextmanager
    async def open(self, cache: Cache | None = None) -> AsyncIterator[None]:
        """Opens every part in order; they are closed in reverse."""
        try:
            async with AsyncExitStack() as stack:
                stack.callback(self.metrics.settle)
                await self._furnish(stack, cache)
                self.is_warm = True
                log.info("ready", **self.registry.active.name)
                yield
        except ServiceError as error:
            self.start_error = error
            raise

    async def _furnish(self, stack: AsyncExitStack, cache: Cache | None) -> None:
        settings = self.settings
        if settings.otlp is not None:
            self.tracer = Tracer(settings.otlp, release())
            stack.push_async_callback(self.tracer.close)
        if settings.keys is not None:
            self.guard = Guard(
                settings.keys, workers=settings.workers, open_metrics=settings.open_metrics
            )
        self.answer_log = open_answer_log(settings, self.metrics.logged)
        if self.answer_log is not None:
            stack.push_async_callback(self.answer_log.close)
        model = make_model(settings, settings.bundle, self.metrics)
        self.registry.add(model)
        stack.push_async_callback(self.registry.close)
        if cache is None:
            cache = await open_store(settings, model, self.metrics)
            stack.push_async_callback(cache.close)
        self.cache = cache
        if isinstance(cache, Sweeps):
            stack.push_async_callback(Sweeper(cache, settings.sweep_every_s).close)
        self.chores = Chores(on_error=lambda error: log.warning("chore failed", error=repr(error)))
        stack.push_async_callback(self.chores.close)
        self.ranker = Ranker(
            cache,
            self.registry,
            self.chores,
            self.metrics,
            default_deadline_ms=settings.default_deadline_ms,
            near_bytes=settings.near_mib << 20,
            fetch_s=settings.store_fetch_ms / 1e3,
            truth=Truth(cache, self.chores, self.metrics.checked, share=settings.truth_share),
            answer_log=self.answer_log,
            stale=self._stale(cache),
            refresh_s=settings.refresh_s,
        )
        stack.push_async_callback(self.ranker.close)
        self.recorder = Recorder(
            cache, deadline_s=settings.write_deadline_s, refresh_s=settings.refresh_s
        )
        self.explainer = Explainer(
            cache, self.registry, default_deadline_ms=settings.default_deadline_ms
        )
        self.handout = Handout(cache, self.chores, refresh_s=settings.refresh_s)
        self.status = Status(
            store=settings.cache.partition(":")[0],
            workers=settings.workers,
            cache=cache,
            registry=self.registry,
            metrics=self.metrics,
            drain=self.drain,
        )
        self.feed = Feed(self.status.written, is_over=lambda: self.drain.has_begun)
        stack.callback(self.feed.close)
        await warm_up(model)
        await self_test(model)
        await self._follow(stack, cache, model)
        await self._add_stages(stack, model)
        stack.callback(self.drain.finish)
        self.drain.install()
        stack.enter_context(start_spared())

    async def _add_stages(self, stack: AsyncExitStack, ranker: Model) -> None:
        """Opens the models before ranking, each on an engine of its own."""
        settings, reception, metrics = self.settings, self.ranker.reception, self.metrics
        if settings.prerank or settings.retrieval:
            stack.enter_context(ranker.use)  # they read its records, whoever is active
        if settings.prerank is not None:
            model = open_model(settings, stack, metrics, stage="prerank", ranker=ranker)
            await warm_up(model)
            self.prerank = Preranker(model, ranker, reception)
        if settings.retrieval is None:
            return
        model = open_model(settings, stack, metrics, stage="retrieval", ranker=ranker)
        await warm_up(model)
        self.retrieval = Retriever(model, ranker, reception, max_seen=settings.max_seen)
        most = settings.chain_retrieved + settings.max_seen
        self.recommender = Recommender(
            self.retrieval,
            self.prerank,
            self.ranker,
            await self.retrieval.find_for_anyone(most),
            retrieved=settings.chain_retrieved,
            preranked=settings.chain_preranked,
            max_seen=settings.max_seen,
        )

    def _stale(self, cache: Cache) -> Stale | None:
        settings = self.settings
        if not settings.stale_ok_s:
            return None
        return Stale(
            Lineages(cache),
            ok_s=settings.stale_ok_s,
            share=settings.stale_share,
            clock=time.time,
        )

    async def _follow(self, stack: AsyncExitStack, cache: Cache, base: Model) -> None:
        """Other versions, as far as the store names any; before this the base is tried."""
        settings = self.settings
        self.rollouts = Rollouts(
            cache,
            self.registry,
            self.metrics,
            base=base,
            folder=settings.models_dir,
            make=lambda path: make_model(settings, path, self.metrics),
            poll_s=settings.models_poll_s,
        )
        stack.push_async_callback(self.rollouts.close)
        await self.rollouts.begin()
        if settings.models_dir is not None:
            self.errands = Errands(
                cache,
                self.rollouts,
                self.metrics,
                poll_s=settings.models_poll_s,
                users_per_s=settings.models_users_per_s,
                share=settings.models_share,
            )
            stack.push_async_callback(self.errands.close)


def open_model(
    settings: Settings,
    stack: AsyncExitStack,
    metrics: Metrics | None = None,
    *,
    stage: str = "rank",
    ranker: Model | None = None,
) -> Model:
    """The settings' bundle of a stage on an engine of its own, closed with the stack."""
    path = {"retrieval": settings.retrieval, "prerank": settings.prerank}.get(stage)
    model = make_model(settings, path or settings.bundle, metrics, stage=stage, ranker=ranker)
    stack.push_async_callback(model.close)
    return model


def make_model(
    settings: Settings,
    path: Path,
    metrics: Metrics | None = None,
    *,
    stage: str = "rank",
    ranker: Model | None = None,
) -> Model:
    """A bundle on an engine of its own; takes its time, and may be called on any thread."""
    try:
        bundle = load_bundle(path, key=settings.bundle_key)
    except BundleError as error:
        raise StartError(str(error)) from error
    check_stage(bundle, stage, ranker.bundle if ranker else None)
    threads = settings.threads or threads_for(settings.workers)
    has_buckets = stage == "rank" and (
        settings.buckets == "on"
        or (settings.buckets == "auto" and settings.provider.lower() != "cpu")
    )
    also = PROJECTED if settings.near_mib and not has_buckets else ()
    if stage == "rank" and settings.compute == "int8":
        if has_buckets or any(graph not in bundle.graphs for graph in PROJECTED_INT8):
            raise StartError(
                f"{path}: int8 is for bundles of one head (`marmot train --heads 1`) on the CPU"
            )
        also = PROJECTED_INT8
    engine = Engine(
        bundle,
        provider=settings.provider,
        threads=threads,
        buckets=Buckets(bundle.spec.attends) if has_buckets else None,
        also=also,
    )
    batcher = Batcher(
        engine,
        queue_limit=int(settings.work_limit_ms * COST_PER_MS),
        on_batch=partial(metrics.later, metrics.batch) if metrics else None,
    )
    admission = Admission(
        batcher,
        few=settings.few,
        queue_s=settings.queue_limit_ms / 1e3,
        crowd_s=settings.crowd_limit_ms / 1e3,
    )
    event_admission = Admission(
        batcher,
        few=settings.few,
        queue_s=settings.event_queue_limit_ms / 1e3,
        crowd_s=settings.work_limit_ms / 1e3,
        lane=Lane.EVENT,
    )
    return Model.of(bundle, engine, batcher, admission, event_admission)


async def open_store(settings: Settings, model: Model, metrics: Metrics | None = None) -> Cache:
    """The store that the settings name, told how much this model needs kept."""
    try:
        cache = await open_cache(
            settings.cache,
            keep=settings.keep,
            least_keep=model.spec.least_keep,
            record_ttl_s=settings.record_ttl_s,
            timeline_ttl_s=settings.timeline_ttl_s,
            timeout_s=settings.store_timeout_ms / 1e3,
            acks=settings.store_acks,
            replica_reads=settings.store_replica_reads,
            on_event=metrics.store_event if metrics else _ignore,
        )
    except (BadCacheUrl, CacheMismatch) as error:
        raise UsageError(str(error)) from error
    except CacheError as error:
        raise StartError(str(error)) from error
    try:
        await cache.ping()
    except CacheUnavailable as away:
        log.warning("the store is away", error=str(away))
    except CacheMismatch as error:
        await cache.close()
        raise UsageError(str(error)) from error
    with suppress(CacheUnavailable):  # then whoever misses records first does it
        await join(cache, model.bundle)
    return cache


def _ignore(_event: str) -> None:
    return
