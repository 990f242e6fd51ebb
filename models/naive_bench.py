"""A bundle's rank graphs beside what PyTorch's own exporter writes of the same model.

    OMP_NUM_THREADS=1 python -m models.naive_bench --bundle var/bundle

One request on one thread, in turns: the exporter's graph, `rank.onnx`, and `projected.onnx`, which
users who come again are ranked by, in float32 and, where it is there, in 8 bits. Prints a line
of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import Bundle, load_bundle
from models.ranking_model import History, RankingModel
from models.reference import load_model
from models.spec import PROJECTED, PROJECTED_INT8
from models.teacher import open_graph

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

NOW_S = 1_000_000_000
RUNS = 5  # of each in a turn, behind one that does not count


class Whole(nn.Module):
    """Candidates and a cached history to probabilities: what `rank.onnx` computes."""

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, candidates: Tensor, timestamp: Tensor, *history: Tensor) -> Tensor:
        logits = self.model.forward_cached(candidates, timestamp, History(*history))
        return torch.sigmoid(logits)


def main() -> None:
    """Reads the options and prints the answer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--turns", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(options.bundle)
    answer = measure(bundle, options.candidates, options.records, options.turns)
    sys.stdout.write(json.dumps(answer) + "\n")


def measure(bundle: Bundle, candidates: int, records: int, turns: int) -> dict[str, Any]:
    """Median milliseconds of each graph, and how far their scores are apart at most.

    Raises `ValueError` for a bundle that projects nothing, or whose records are not float32.
    """
    if "projected" not in bundle.graphs or bundle.spec.cache_dtype != "float32":
        raise ValueError("The bundle must be marm's, of one window, with float32 records.")
    asked, history = _request(bundle, candidates, records)
    feeds = {"naive": {**asked, **history}, "rank": {**asked, **history}}
    opened = {"rank": open_graph(str(bundle.file(bundle.graphs["rank"].file)))}
    for before, behind in (PROJECTED, PROJECTED_INT8):
        if behind in bundle.graphs:
            feeds[behind] = {**asked, **projected_feed(bundle, before, history)}
            opened[behind] = open_graph(str(bundle.file(bundle.graphs[behind].file)))
    opened["naive"] = open_graph(_exported(load_model(bundle), feeds["naive"]))
    scores = {name: opened[name].run(["scores"], feed)[0] for name, feed in feeds.items()}
    took_s: dict[str, list[float]] = {name: [] for name in feeds}
    for _ in range(turns):
        for name, feed in feeds.items():
            opened[name].run(["scores"], feed)
            for _ in range(RUNS):
                began = perf_counter()
                opened[name].run(["scores"], feed)
                took_s[name].append(perf_counter() - began)
    median = {name: float(np.median(took)) for name, took in took_s.items()}
    return {
        "heads": bundle.spec.heads,
        "candidates": candidates,
        "records": records,
        **{f"{name}_ms": round(took * 1e3, 3) for name, took in median.items()},
        **{
            f"{name} / naive": round(median[name] / median["naive"], 3)
            for name in feeds
            if name != "naive"
        },
        "largest_difference": {
            name: float(np.abs(found - scores["naive"]).max())
            for name, found in scores.items()
            if name != "naive"
        },
    }


def projected_feed(bundle: Bundle, graph: str, history: Feed) -> Feed:
    """What that graph makes of a history; what it puts before its events is of any time."""
    project = open_graph(str(bundle.file(bundle.graphs[graph].file)))
    names = [port.name for port in project.get_outputs()]
    events = {name: part for name, part in history.items() if name != "timestamps"}
    made: Feed = dict(zip(names, project.run(names, events), strict=True))
    times = history["timestamps"]
    leading = made["offsets"].shape[1] - times.shape[1]
    return {"timestamps": np.pad(times, ((0, 0), (leading, 0))), **made}


def _request(bundle: Bundle, candidates: int, records: int) -> tuple[Feed, Feed]:
    """What a request brings, and a history in its order with records of the usual size."""
    random = np.random.default_rng(0)
    items, spec = len(bundle.vocabulary), bundle.spec
    asked = {
        "candidates": random.integers(0, items, (1, candidates)),
        "timestamp": np.array([NOW_S]),
    }
    shape = (1, records, spec.hidden_depths, spec.width)
    history = {
        "items": random.integers(0, items, (1, records)),
        "timestamps": np.sort(random.integers(0, NOW_S, (1, records))),
        "feedback": random.integers(-1, 2, (1, records, len(spec.tasks)), np.int8),
        "records": random.standard_normal(shape, np.float32),
    }
    return asked, history


def _exported(model: RankingModel, feed: Feed) -> bytes:
    """What `torch.onnx.export` writes, with the axes that a server cannot do without left open."""
    of_records = {1: torch.export.Dim("records")}
    program = torch.onnx.export(
        Whole(model).eval(),
        tuple(map(torch.from_numpy, feed.values())),
        dynamo=True,
        opset_version=20,
        input_names=list(feed),
        output_names=["scores"],
        dynamic_shapes=(
            {1: torch.export.Dim("candidates")}, {}, (of_records,) * (len(feed) - 2),
        ),
        verbose=False,
    )  # fmt: skip
    if program is None:
        raise RuntimeError("This is a bug: the exporter wrote nothing.")
    whole: bytes = program.model_proto.SerializeToString()
    return whole


if __name__ == "__main__":
    main()
