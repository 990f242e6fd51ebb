"""The engine on the small bundle, and what is checked before a service is ready."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, load_bundle
from service.batcher import Batcher
from service.buckets import Buckets
from service.engine import PROVIDERS, Engine
from service.errors import EngineFailed, Overloaded, StartError
from service.job import Job
from service.registry import Model
from service.selftest import self_test, warm_up


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    engine = Engine(bundle)
    yield engine
    engine.close()


def test_runs_are_counted_and_made_on_a_thread_of_their_own(engine: Engine) -> None:
    """`submit` returns at once; the run ends elsewhere and is counted under its graph."""
    ended: Queue[tuple[Any, ...]] = Queue()

    def finished(*told: Any) -> None:
        ended.put((threading.current_thread(), *told))

    engine.submit("rank", engine.bundle.example(), finished, lambda: True)
    thread, outputs, run_s, error = ended.get(timeout=60)
    assert thread is not threading.current_thread()
    assert error is None
    assert run_s > 0
    scores = outputs["scores"]
    assert ((scores >= 0) & (scores <= 1)).all()
    assert engine.runs == {"rank": 1}


def test_what_the_runtime_throws_is_the_engines_failure(engine: Engine) -> None:
    """A feed that does not fit is `EngineFailed`, and the engine goes on."""
    with pytest.raises(EngineFailed):
        engine.run("rank", {})
    assert engine.run("rank", engine.bundle.example())


def test_an_example_may_be_tiled(engine: Engine) -> None:
    """The example repeats along batch and candidates, and so do its scores."""
    example = engine.bundle.example()
    (once,) = engine.run("rank", example).values()
    graph = engine.bundle.graphs["rank"]
    tiled = {}
    for port in graph.inputs:
        repeats = [3 if axis in ("batch", "candidates") else 1 for axis in port.axes]
        tiled[port.name] = np.tile(example[port.name], repeats)
    (many,) = engine.run("rank", tiled).values()
    assert np.abs(many - np.tile(once, (3, 3, 1))).max() <= 1e-5


def test_bound_runs_equal_plain_ones(bundle: Bundle, engine: Engine) -> None:
    """Buffers that stay on the device give the same outputs, which later runs leave alone."""
    bound = Engine(bundle, buckets=Buckets(bundle.spec.window))
    try:
        example = bundle.example()
        once = bound.run("rank", example)["scores"]
        kept = once.copy()
        moved = example | {"timestamp": example["timestamp"] + 100_000_000}
        assert not np.array_equal(bound.run("rank", moved)["scores"], kept)
        assert np.array_equal(once, kept)
        assert np.array_equal(kept, engine.run("rank", example)["scores"])
    finally:
        bound.close()


async def test_a_model_is_closed_when_nobody_is_with_it(bundle: Bundle) -> None:
    """Requests that have begun with a model are finished with it."""
    engine = Engine(bundle)
    model = Model.of(bundle, engine, Batcher(engine))
    with model.use, model.use:
        closing = asyncio.ensure_future(model.close())
        await asyncio.sleep(0)
        await warm_up(model)
        assert not closing.done()
    await closing
    with pytest.raises(Overloaded):
        await warm_up(model)


async def test_scores_do_not_feel_the_buckets(bundle: Bundle, engine: Engine) -> None:
    """Padding to a bucket moves no score by more than 1e-5; every bucket is warmed before."""
    bound = Engine(bundle, buckets=Buckets(bundle.spec.window, queries=(16, 64), batches=(1, 2)))
    try:
        plain, padded = (Model.of(bundle, each, Batcher(each)) for each in (engine, bound))
        await warm_up(padded)
        assert bound.runs["rank"] == 5
        await self_test(padded)
        example = bundle.example()
        ports = bundle.graphs["rank"].inputs
        feed = {port.name: example[port.name][0] for port in ports}
        sizes = {"candidates": len(feed["candidates"]), "records": len(feed["items"])}
        scores = [
            (await model.batcher.submit(Job("rank", feed, sizes)))["scores"]
            for model in (plain, padded)
        ]
        assert np.abs(scores[0] - scores[1]).max() <= 1e-5
    finally:
        bound.close()


def test_a_provider_that_is_not_there_is_refused(bundle: Bundle) -> None:
    """Never a silent fallback to the CPU."""
    import onnxruntime as ort  # noqa: PLC0415

    here = ort.get_available_providers()
    absent = [name for name, provider in PROVIDERS.items() if provider not in here]
    for provider in (*absent, "NoSuchExecutionProvider"):
        with pytest.raises(StartError, match=provider):
            Engine(bundle, provider=provider)


@pytest.mark.parametrize(("provider", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_without_a_runtime_the_extra_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, provider: str, extra: str
) -> None:
    """A missing onnxruntime says which extra to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StartError, match=rf"marmot\[{extra}\]"):
        Engine(bundle, provider=provider)


async def test_the_self_test_passes_on_a_good_bundle(engine: Engine) -> None:
    """Rows appended bit by bit score like rows encoded at once."""
    model = Model.of(engine.bundle, engine, Batcher(engine))
    await warm_up(model)
    await self_test(model)
    assert set(engine.runs) == {"rank", "append", "encode"}


class CrookedEngine(Engine):
    """An engine whose appended rows are wrong."""

    def run(self, graph: str, feed: Any) -> dict[str, Any]:
        outputs = super().run(graph, feed)
        if graph == "append":
            outputs = {name: -3 * array for name, array in outputs.items()}
        return outputs


async def test_a_bundle_whose_cached_scores_differ_is_refused(bundle: Bundle) -> None:
    """The start-up self-test refuses to serve what breaks law 1."""
    engine = CrookedEngine(bundle)
    try:
        with pytest.raises(StartError, match="scores from cached records differ"):
            await self_test(Model.of(bundle, engine, Batcher(engine)))
    finally:
        engine.close()
