"""Export of a stage: a bundle that names the ranking model whose records it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch

from models.additions import Additions
from models.bundle import Graph, Vocabulary, fingerprint_of, write_bundle, write_items
from models.export import TOLERANCE, ExportError
from models.graph import GraphBuilder, described
from models.graph_weights import GraphWeights, as_array
from models.lessons import Past, windows
from models.prerank import Prerank
from models.retrieval import Retrieval
from models.stage_graphs import prerank, retrieve, user
from models.stage_index import write_index
from models.teacher import Feed, decoded, open_graph

Array = np.ndarray[Any, Any]


def export_stage(
    model: Retrieval | Prerank,
    vocabulary: Vocabulary,
    reads: Mapping[str, str],
    path: Path,
    *,
    name: str,
    version: str | None = None,
    trained_on: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    additions: Additions | None = None,
    index: Any = None,
) -> str:
    """Writes the bundle at `path` in one step and returns its fingerprint.

    `reads` names the ranking model, fingerprint and version, whose `vocabulary` it is too.
    `additions` are items behind the trained ones, and what new ones are made from; they change no
    weight and no fingerprint. With an `index` over all of them the graph ends with the user's
    vector. Raises `ExportError` if the graph differs from PyTorch.
    """
    model, spec = model.eval(), model.spec
    proto, graph = build_stage(model, additions, is_indexed=index is not None)
    example = _prove(model, proto, graph, additions)
    tensors = [
        (tensor_name, tensor.shape, tensor.contiguous().numpy().tobytes())
        for tensor_name, tensor in model.state_dict().items()
    ]
    fingerprint = fingerprint_of(spec, tensors, vocabulary.ids)
    manifest = {
        "name": name,
        "version": version or fingerprint[:8],
        "fingerprint": fingerprint,
        "reads": dict(reads),
        "family": spec.family,
        "spec": spec.to_dict(),
        "graphs": described({spec.graphs[0]: graph}),
        "trained_on": dict(trained_on or {}),
        "metrics": dict(metrics or {}),
    }

    def fill(folder: Path) -> None:
        onnx.save(proto, folder / graph.file)
        safetensors.torch.save_file(dict(model.state_dict()), folder / "weights.safetensors")
        write_items(folder / "items.parquet", vocabulary.ids, vocabulary.names)
        np.savez(folder / "example.npz", **example)  # type: ignore[arg-type]
        if additions is not None:
            additions.write(folder)
        if index is not None:
            write_index(index, folder)

    write_bundle(path, manifest, fill)
    return fingerprint


def build_stage(
    model: Retrieval | Prerank, additions: Additions | None = None, *, is_indexed: bool = False
) -> tuple[onnx.ModelProto, Graph]:
    """The stage's one graph."""
    weights, builder, file = GraphWeights(model), GraphBuilder(), f"{model.spec.graphs[0]}.onnx"
    if isinstance(model, Prerank):
        return prerank(weights, builder).build(file)
    if is_indexed:
        return user(weights, builder).build(file)
    return retrieve(weights, builder, table_of(model, additions)).build(file)


def table_of(model: Retrieval, additions: Additions | None = None) -> Array:
    """The trained rows and those that were added: (items, width + 1)."""
    table = as_array(model.table)
    return table if additions is None else np.concatenate([table, additions.vectors])


@torch.no_grad()
def _prove(
    model: Retrieval | Prerank,
    proto: onnx.ModelProto,
    graph: Graph,
    additions: Additions | None,
) -> Feed:
    """Compares the graph with PyTorch on random timelines; the last feed is the example."""
    random, spec = np.random.default_rng(0), model.spec
    session = open_graph(proto.SerializeToString())
    feed: Feed = {}
    for events in (0, 1, spec.window):
        past, rows = _timeline(model, events, random)
        asked = _asked(model, random)
        feed = {**asked, **past, **rows}
        feed = {port.name: feed[port.name] for port in graph.inputs}
        used = {port.name for port in session.get_inputs()}
        found = dict(
            zip(
                [port.name for port in graph.outputs],
                session.run(None, {n: part for n, part in feed.items() if n in used}),
                strict=True,
            )
        )
        records = decoded(rows)
        if records is None:
            records = np.zeros((1, events, 0, spec.width), np.float32)
        one = Past(past["items"][0], past["timestamps"][0], past["feedback"][0], records[0])
        history = windows([one], np.array([events]), events)
        when = torch.from_numpy(asked["timestamp"])
        if isinstance(model, Prerank):
            logits = model.forward_cached(torch.from_numpy(asked["candidates"]), when, history)
            _compare(graph, found["scores"], torch.sigmoid(logits).numpy())
            continue
        if "found" not in found:
            _compare(graph, found["user"], model.user(when, history).numpy())
            continue
        table = torch.from_numpy(table_of(model, additions))
        scores = torch.sigmoid(model.logits(model.user(when, history), table)).numpy()
        scores[0, asked["seen"][0] - 1] = 0.0
        best = -np.sort(-scores, axis=1)[:, : found["scores"].shape[1]]
        _compare(graph, found["scores"], best)
        _compare(graph, found["scores"], np.take_along_axis(scores, found["found"], axis=1))
    return feed


def _timeline(
    model: Retrieval | Prerank, events: int, random: np.random.Generator
) -> tuple[Feed, Feed]:
    """Events and records of any kind: what is compared is what both make of them."""
    spec = model.spec
    past: Feed = {
        "items": random.integers(0, model.items + spec.fallback_rows, (1, events)),
        "timestamps": np.sort(random.integers(0, 10**9, (1, events)), axis=1),
        "feedback": random.integers(-1, 2, (1, events, len(spec.tasks))).astype(np.int8),
    }
    rows: Feed = {}
    for name in spec.row.names or ():
        field = spec.row[name]
        shape = (1, events, *field.shape)
        if field.base == np.int8:
            rows[name] = random.integers(-127, 128, shape).astype(np.int8)
        else:
            most = 0.02 if name == "scales" else 2.0
            rows[name] = random.uniform(0.0 if name == "scales" else -most, most, shape).astype(
                field.base
            )
    return past, rows


def _asked(model: Retrieval | Prerank, random: np.random.Generator) -> Feed:
    when = np.array([10**9])
    if isinstance(model, Prerank):
        return {"candidates": random.integers(0, model.items, (1, 16)), "timestamp": when}
    count = min(16, model.items - 1)
    seen = random.integers(0, model.items, (1, 1)) + 1
    return {"timestamp": when, "seen": seen, "wanted": np.zeros((1, count), np.int8)}


def _compare(graph: Graph, found: Array, expected: Array) -> None:
    if found.size and not (most := float(np.abs(found - expected).max())) <= TOLERANCE:
        raise ExportError(
            f"{graph.file} differs from PyTorch by {most:.1e}, more than {TOLERANCE:.0e}; "
            "no bundle was written"
        )
