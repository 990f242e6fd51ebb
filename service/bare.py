"""The bare loop: `rank.onnx` alone, on the service's own engine. What a service can cost at least.

    echo '{"candidates": 500, "records": 100, "seconds": 1}' | python -m service.bare --bundle B

Every line on stdin asks for one turn and gets one line of JSON, so that whoever compares can
alternate. `{"gemm": 1024, "seconds": 1}` asks for float32 matrix products of that size instead;
numpy's threads are its environment's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from models.bundle import Bundle, Port, load_bundle
from service.engine import Engine
from service.job import Array

NOW_S = 1_000_000_000


def main(arguments: list[str] | None = None, questions: Iterable[str] = sys.stdin) -> None:
    """Answers until there are no more questions."""
    parser = argparse.ArgumentParser(prog="service.bare", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    bundle = load_bundle(options.bundle)
    engine = Engine(bundle, provider=options.provider, threads=options.threads)
    for line in questions:
        question = json.loads(line)
        took_s = turn(_work(bundle, engine, question), question["seconds"])
        sys.stdout.write(json.dumps({"took_s": took_s}) + "\n")
        sys.stdout.flush()
    engine.close()


def turn(work: Callable[[], object], seconds: float) -> list[float]:
    """How long each run took, for that long; at least one after a first that does not count."""
    work()
    took: list[float] = []
    end = perf_counter() + seconds
    began = perf_counter()
    while began < end or not took:
        work()
        done = perf_counter()
        took.append(done - began)
        began = done
    return took


def _work(bundle: Bundle, engine: Engine, question: Mapping[str, Any]) -> Callable[[], object]:
    if "gemm" in question:
        left, right = np.random.default_rng(0).random((2, *[question["gemm"]] * 2), np.float32)
        return lambda: left @ right
    feed = random_feed(bundle, question["candidates"], question["records"])
    return lambda: engine.run("rank", feed)


def random_feed(bundle: Bundle, candidates: int, records: int) -> dict[str, Array]:
    """One request's inputs of these sizes, with values of the kind that requests have."""
    random = np.random.default_rng(0)
    sizes = {"batch": 1, "candidates": candidates, "records": records}
    return {
        port.name: _values(port, _shape(port, sizes), len(bundle.vocabulary), random)
        for port in bundle.graphs["rank"].inputs
    }


def _shape(port: Port, sizes: Mapping[str, int]) -> list[int]:
    return [sizes[axis] if isinstance(axis, str) else axis for axis in port.axes]


def _values(port: Port, shape: list[int], items: int, random: np.random.Generator) -> Array:
    if port.name == "timestamp":
        return np.full(shape, NOW_S, port.dtype)
    if port.name == "timestamps":
        return np.sort(random.integers(0, NOW_S, shape, port.dtype))
    if port.name == "feedback":
        return random.integers(-1, 2, shape, port.dtype)
    if np.issubdtype(port.dtype, np.floating):
        return random.standard_normal(shape).astype(port.dtype)
    return random.integers(0, min(items, np.iinfo(port.dtype).max), shape, port.dtype)


if __name__ == "__main__":
    main()
