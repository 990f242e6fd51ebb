"""The bare loop: one graph alone, on the service's own engine. What a service can cost at least.

    echo '{"candidates": 500, "records": 100, "seconds": 1}' | python -m service.bare --bundle B

Every line on stdin asks for one turn and gets one line of JSON, so that whoever compares can
alternate. `{"graph": "encode", "events": 200, "seconds": 1}` asks for another graph than `rank`;
with `"rest_s": 0.001` it does nothing for so long before each run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np

from models.bundle import Bundle, Port, load_bundle
from models.spec import Spec
from service.engine import Engine
from service.job import Array

NOW_S = 1_000_000_000
EXPANSION = 2  # of the width, between a layer's two last products


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
        sizes: dict[str, Any] = json.loads(line)
        graph, seconds = sizes.pop("graph", "rank"), sizes.pop("seconds")
        rest_s = sizes.pop("rest_s", 0.0)
        feed = random_feed(bundle, graph, **sizes)
        began_s = process_time()
        took_s = turn(partial(engine.run, graph, feed), seconds, rest_s)
        answer: dict[str, Any] = {"took_s": took_s, "cpu_s": process_time() - began_s}
        if graph == "rank":
            answer["flops"] = flops_of(bundle.spec, **sizes)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    engine.close()


def turn(work: Callable[[], object], seconds: float, rest_s: float = 0.0) -> list[float]:
    """How long each run took, for that long; at least one after a first that does not count."""
    work()
    took: list[float] = []
    end = perf_counter() + seconds
    began = perf_counter()
    while began < end or not took:
        if rest_s:
            sleep(rest_s)
            began = perf_counter()
        work()
        done = perf_counter()
        took.append(done - began)
        began = done
    return took


def flops_of(spec: Spec, candidates: int, records: int) -> int:
    """Multiplications and additions of the matrix products of one request.

    Only what the model asks for: no norms, no softmax, and none of what the graph adds to them
    for its own convenience.
    """
    width, tasks = spec.width, len(spec.tasks)
    target = (2 + 2 * EXPANSION) * width * width  # query, out, and the two products behind them
    attention = 2 * (records + 1) * width  # one key more than there are records: the null key
    readout = 3 * width * tasks
    keys, values = width * width, ((1 + tasks) * width + tasks) * width
    expected = width * tasks  # what each record foresaw of its own feedback
    layer = candidates * (target + attention + readout) + records * (keys + values + expected)
    return 2 * spec.depth * layer


def random_feed(bundle: Bundle, graph: str, **sizes: int) -> dict[str, Array]:
    """One run's inputs of these sizes, with values of the kind that requests have."""
    random = np.random.default_rng(0)
    sizes["batch"] = 1
    return {
        port.name: _values(port, _shape(port, sizes), len(bundle.vocabulary), random)
        for port in bundle.graphs[graph].inputs
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
