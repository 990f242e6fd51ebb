"""Retrieval over a generated catalogue, beside a bare product and partition in numpy.

    python -m models.retrieval_bench --items 1000000
    python -m models.retrieval_bench --items 1000000 --index faiss

The retrieve graph of random weights, or the inverted file, in turns with what an exact search
must at least do: multiply all items with one vector, and find the largest. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch

from models.graph import GraphBuilder
from models.graph_weights import GraphWeights
from models.retrieval import Retrieval
from models.spec import Spec
from models.stage_graphs import retrieve
from models.stage_index import build_index
from models.teacher import open_graph

Array = np.ndarray[Any, Any]

SHOWN = 200
TURNS = 15
#: Users that the index is tuned with, as in a training, and others that it is measured with.
TUNED, ASKED = 200, 100


def main() -> None:
    """Reads the options and prints the answer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--index", choices=["exact", "faiss"], default="exact")
    options = parser.parse_args()
    work = measure if options.index == "exact" else measure_index
    sys.stdout.write(json.dumps(work(options.items, options.k, options.width)) + "\n")


def measure(items: int, k: int, width: int) -> dict[str, Any]:
    """Recall against numpy over several users, and milliseconds of both, in turns."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    # The history side is small here: only the table is of the asked size.
    model = Retrieval(Spec(stage="retrieval", window=SHOWN, width=width), 1_000).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.1)
    table = random.standard_normal((items, width + 1), np.float32)
    proto, _ = retrieve(GraphWeights(model), GraphBuilder(), table).build("retrieve.onnx")
    session = open_graph(proto.SerializeToString())
    del proto
    feed = _feed(model, random, k)
    recalls = []
    for _ in range(5):
        feed = _feed(model, random, k)
        found, user = session.run(["found", "user"], feed)
        exact = _bare(table, user[0], k + len(feed["seen"][0]))
        exact = exact[~np.isin(exact, feed["seen"][0] - 1)][:k]
        recalls.append(float(np.isin(exact, found[0]).mean()))
    vector = random.standard_normal(width, np.float32)
    times = _in_turns(
        {
            "graph": lambda: session.run(["found", "scores"], feed),
            "numpy": lambda: np.argpartition(-(table[:, :-1] @ vector + table[:, -1]), k)[:k],
        }
    )
    return {
        "items": items,
        "k": k,
        f"recall@{k}": float(np.mean(recalls)),
        **{f"{name}_ms": round(found, 2) for name, found in times.items()},
        "graph / numpy": round(times["graph"] / times["numpy"], 3),
    }


def measure_index(items: int, k: int, width: int) -> dict[str, Any]:
    """Recall of the inverted file for users that it was not tuned with, and milliseconds of both.

    Items lie around a thousandth as many centres, as those of a catalogue lie around their kinds.
    """
    random = np.random.default_rng(0)
    centres = random.standard_normal((max(1, items // 1_000), width), np.float32)
    table = random.standard_normal((items, width + 1), np.float32)
    table[:, :-1] += 2 * centres[random.integers(len(centres), size=items)]
    users = random.standard_normal((TUNED + ASKED, width + 1), np.float32)
    index, told = build_index(table, users[:TUNED])
    asked = users[TUNED:]
    asked[:, -1] = 1  # of the bias
    found = index.search(asked, k)[1]
    exact = np.array([_bare(table, user[:-1], k) for user in asked])
    recalls = [np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]
    times = _in_turns(
        {
            "index": lambda: index.search(asked[:1], k),
            "numpy": lambda: np.argpartition(-(table @ asked[0]), k)[:k],
        }
    )
    return {
        "items": items,
        "k": k,
        "lists": told["lists"],
        "probes": told["probes"],
        f"recall@{k}": round(float(np.mean(recalls)), 4),
        **{f"{name}_ms": round(took, 2) for name, took in times.items()},
        "index / numpy": round(times["index"] / times["numpy"], 3),
    }


def _feed(model: Retrieval, random: np.random.Generator, k: int) -> dict[str, Array]:
    spec = model.spec
    return {
        "timestamp": np.array([10**9]),
        "items": random.integers(0, model.items, (1, SHOWN)),
        "timestamps": np.sort(random.integers(0, 10**9, (1, SHOWN)), axis=1),
        "feedback": random.integers(-1, 2, (1, SHOWN, len(spec.tasks))).astype(np.int8),
        "records": random.standard_normal((1, SHOWN, spec.cached_depths, spec.width), np.float32),
        "seen": random.integers(1, model.items, (1, SHOWN)),
        "wanted": np.zeros((1, k), np.int8),
    }


def _bare(table: Array, user: Array, k: int) -> Array:
    """The best `k` rows, best first."""
    scores = table[:, :-1] @ user + table[:, -1]
    best = np.argpartition(-scores, k)[:k]
    return np.asarray(best[np.argsort(-scores[best])])


def _in_turns(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds of each, one after the other, so that all meet the same company."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            began = perf_counter()
            run()
            took[name].append(perf_counter() - began)
    return {name: float(np.median(found)) * 1e3 for name, found in took.items()}


if __name__ == "__main__":
    main()
