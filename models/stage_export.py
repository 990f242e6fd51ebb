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
from models.bundle import RANK_FILE, Graph, Vocabulary, fingerprint_of, write_bundle, write_items
from models.export import TOLERANCE, ExportError
from models.graph import GraphBuilder, described
from models.graph_files import GraphFiles
from models.graph_weights import GraphWeights, as_array
from models.lessons import Past, windows
from models.prerank import Prerank
from models.retrieval import Retrieval
from models.stage_graphs import NEVER, judge, prerank, retrieve, user
from models.stage_index import write_index
from models.teacher import Feed, decoded, open_graph

Array = np.ndarray[Any, Any]


def export_stage(
    model: Retrieval | Prerank,
    vocabulary: Vocabulary,
    reads: Mapping[str, Any],
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

    `reads` names the ranking model, fingerprint and version, whose `vocabulary` it is too, and how
    many events can move its records (`record_field`).
    `additions` are items behind the trained ones, and what new ones are made from; they change no
    weight and no fingerprint. With an `index` over all of them the retrieval graph ends with the
    user's vector. Raises `ExportError` if a graph differs from PyTorch.
    """
    model, spec = model.eval(), model.spec
    graphs = build_stage(model, additions, is_indexed=index is not None)
    examples = {
        graph.file: _prove(model, proto, graph, additions) for proto, graph in graphs.values()
    }
    tensors = [
        (tensor_name, tensor.shape, tensor.contiguous().numpy().tobytes())
        for tensor_name, tensor in model.state_dict().items()
    ]
    fingerprint = fingerprint_of(spec, tensors, vocabulary.ids)
    files = GraphFiles(graphs)
    manifest = {
        "name": name,
        "version": version or fingerprint[:8],
        "fingerprint": fingerprint,
        "reads": dict(reads),
        "family": spec.family,
        "spec": spec.to_dict(),
        "receptive_field": spec.reads + reads.get("record_field", spec.record_field),
        "graphs": described(files.graphs),
        "trained_on": dict(trained_on or {}),
        "metrics": dict(metrics or {}),
    }

    def fill(folder: Path) -> None:
        files.write(folder)
        for file, example in examples.items():
            name = "example.npz" if file == RANK_FILE else file.replace(".onnx", ".npz")
            np.savez(folder / name, **example)  # type: ignore[arg-type]
        safetensors.torch.save_file(dict(model.state_dict()), folder / "weights.safetensors")
        write_items(folder / "items.parquet", vocabulary.ids, vocabulary.names)
        if additions is not None:
            additions.write(folder)
        if index is not None:
            write_index(index, folder)

    write_bundle(path, manifest, fill)
    return fingerprint


def build_stage(
    model: Retrieval | Prerank, additions: Additions | None = None, *, is_indexed: bool = False
) -> dict[str, tuple[onnx.ModelProto, Graph]]:
    """The stage's own graph, and the one that scores candidates under the name rank.

    To pre-rank is to score candidates, so there both are one.
    """
    weights = GraphWeights(model)
    if isinstance(model, Prerank):
        built = prerank(weights, GraphBuilder()).build(RANK_FILE)
        return {"prerank": built, "rank": built}
    table = table_of(model, additions)
    found = (
        user(weights, GraphBuilder()) if is_indexed else retrieve(weights, GraphBuilder(), table)
    )
    judged = judge(weights, GraphBuilder(), rows_of(model, table))
    return {"retrieve": found.build("retrieve.onnx"), "rank": judged.build(RANK_FILE)}


def rows_of(model: Retrieval, table: Array) -> Array:
    """The table by rows of the vocabulary: behind the trained items the shared rows, then added.

    Items on the shared rows cannot be found, so they score 0.
    """
    shared = np.zeros((model.spec.fallback_rows, table.shape[1]), np.float32)
    shared[:, -1] = NEVER
    return np.concatenate([table[: model.items], shared, table[model.items :]])


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
        asked = _asked(model, graph, random)
        if isinstance(model, Retrieval):
            asked["user_row"] = random.integers(0, len(model.known_users) + 1, 1)
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
        whose = torch.from_numpy(asked["user_row"])
        if graph.file == RANK_FILE:
            table = torch.from_numpy(rows_of(model, table_of(model, additions)))
            rows_asked = torch.from_numpy(asked["candidates"][0])
            logits = model.logits(model.user(when, history, whose), table[rows_asked])
            _compare(graph, found["scores"][..., 0], torch.sigmoid(logits).numpy())
            continue
        if "found" not in found:
            _compare(graph, found["user"], model.user(when, history, whose).numpy())
            continue
        table = torch.from_numpy(table_of(model, additions))
        scores = torch.sigmoid(model.logits(model.user(when, history, whose), table)).numpy()
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


def _asked(model: Retrieval | Prerank, graph: Graph, random: np.random.Generator) -> Feed:
    when = np.array([10**9])
    if graph.file == RANK_FILE:
        rows = model.items + model.spec.fallback_rows
        return {"candidates": random.integers(0, rows, (1, 16)), "timestamp": when}
    count = min(16, model.items - 1)
    seen = random.integers(0, model.items, (1, 1)) + 1
    return {"timestamp": when, "seen": seen, "wanted": np.zeros((1, count), np.int8)}


def _compare(graph: Graph, found: Array, expected: Array) -> None:
    if found.size and not (most := float(np.abs(found - expected).max())) <= TOLERANCE:
        raise ExportError(
            f"{graph.file} differs from PyTorch by {most:.1e}, more than {TOLERANCE:.0e}; "
            "no bundle was written"
        )
