"""The graphs in the runtime: equal to PyTorch, alone or in company, and no more."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import normalised
from models.families import build_graphs
from models.graph import GraphBuilder
from models.graph_history import VECTOR, bucket_of
from models.spec import TIME_GAP_EDGES_S, Spec
from tests.models.graphs import (
    ITEMS,
    WIDTH,
    Timelines,
    encoded,
    left_padded,
    model_of,
    requested,
    run,
    session,
    sessions_of,
    specs,
    timelines,
)

laws = settings(max_examples=40)
EXPORTED = 1e-4
COMPANY = 1e-5
CANDIDATES = np.array([0, 3, ITEMS - 1, ITEMS, ITEMS + 1, 3])
sessions = cache(sessions_of)
seeds = st.integers(0, 10**6)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def rows_feed(spec: Spec, rows: list[Any], span: slice) -> dict[str, Any]:
    names = spec.row.names or ()
    return {name: row[:, span] for name, row in zip(names, rows, strict=True)}


def encode(spec: Spec, whole: Timelines) -> list[Any]:
    return run(sessions(spec)["encode"], whole.feed()) if spec.cached_depths else []


@laws
@given(spec=specs, count=st.integers(1, 25), seed=seeds)
def test_graphs_equal_pytorch(spec: Spec, count: int, seed: int) -> None:
    """Records and scores from the runtime are those of the model."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    exact, rows = encoded(model, whole), encode(spec, whole)
    if rows:
        assert np.abs(rows[0] - exact).max() <= EXPORTED
    seen = slice(max(0, count - spec.window), count)
    now = int(whole.timestamps[0, -1])
    asked = {"candidates": CANDIDATES[None], "timestamp": np.array([now])}
    feed = {**asked, **whole[seen].feed(), **rows_feed(spec, rows, seen)}
    (scores,) = run(sessions(spec)["rank"], feed)
    expected = sigmoid(requested(model, whole[seen], exact[:, seen], CANDIDATES, now))
    assert np.abs(scores[0] - expected).max() <= EXPORTED


def test_gaps_fall_into_their_buckets() -> None:
    """The graph's logarithm decides as the edges do, on both sides of every one of them."""
    edges = np.array(TIME_GAP_EDGES_S)
    far = np.array([-(2**62), -(2**33), 2**31, 2**33, 2**62])
    gaps = np.concatenate([edges - 1, edges, edges + 1, far, np.arange(-5, 70_000)])
    g = GraphBuilder()
    g.output(bucket_of(g, g.input("gaps", "int64", "events")), "buckets", "int32", "events")
    (found,) = run(session(g.build("buckets.onnx")[0]), {"gaps": gaps})
    assert (found == np.searchsorted(edges, gaps, side="right")).all()


@pytest.mark.parametrize("count", [0, 1, VECTOR - 1, VECTOR, VECTOR + 1, 2 * VECTOR + 1])
@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("cache_dtype", ["float32", "float16", "int8"])
def test_any_length_of_history(count: int, heads: int, cache_dtype: str) -> None:
    """The graph pads keys to whole vectors: with and without a rest it is the model's function."""
    spec = Spec(
        depth=3,
        window=2 * VECTOR + 1,
        width=WIDTH,
        heads=heads,
        tasks=("like", "share"),
        fallback_rows=2,
        cache_dtype=cache_dtype,
    )
    model, whole = model_of(spec), timelines(spec, count, seed=heads)
    rows = encode(spec, whole) if count else empty_rows(spec)
    records = rows[0].astype(np.float32)
    if cache_dtype == "int8":
        records = records * rows[1].astype(np.float32)[..., None]
    asked = {"candidates": CANDIDATES[None], "timestamp": np.array([10**9])}
    feed = {**asked, **whole.feed(), **rows_feed(spec, rows, slice(None))}
    (scores,) = run(sessions(spec)["rank"], feed)
    expected = sigmoid(requested(model, whole, records, CANDIDATES, 10**9))
    assert np.abs(scores[0] - expected).max() <= EXPORTED


@laws
@given(spec=specs, seed=seeds, count=st.integers(0, 5), padding=st.integers(1, 9))
def test_padding_and_neighbours_vanish(spec: Spec, seed: int, count: int, padding: int) -> None:
    """A request's scores are the same alone, and padded in a batch beside a longer one."""
    count = min(count, spec.window)
    rank = sessions(spec)["rank"]
    mine = timelines(spec, count, seed=seed)
    other = timelines(spec, count + padding, seed=seed + 1)
    parts, alone = [], []
    for whole in (mine, other):
        rows = encode(spec, whole) if len(whole) else empty_rows(spec)
        asked = {"candidates": CANDIDATES[None], "timestamp": np.array([10**9])}
        alone.append(run(rank, {**asked, **whole.feed(), **rows_feed(spec, rows, slice(None))})[0])
        size = len(other) - len(whole)
        pad = [(0, 0), (size, 0), (0, 0), (0, 0)]
        rows = [np.pad(row, pad[: row.ndim]) for row in rows]
        feed = {**left_padded(whole, size).feed(), **rows_feed(spec, rows, slice(None))}
        parts.append({**asked, **feed})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    (together,) = run(rank, joined)
    assert np.abs(together - np.concatenate(alone)).max() <= COMPANY


def empty_rows(spec: Spec) -> list[Any]:
    return [
        np.zeros((1, 0, *kind[0].shape), kind[0].base) for kind in (spec.row.fields or {}).values()
    ]


@laws
@given(spec=specs, seed=seeds, order=st.permutations(range(ITEMS)), size=st.integers(1, ITEMS))
def test_candidates_are_independent(spec: Spec, seed: int, order: list[int], size: int) -> None:
    """The order and the number of candidates change no score."""
    whole = timelines(spec, spec.window, seed=seed)
    past = {**whole.feed(), **rows_feed(spec, encode(spec, whole), slice(None))}

    def scores(items: Any) -> Any:
        asked = {"candidates": np.array(items)[None], "timestamp": np.array([10**9])}
        return run(sessions(spec)["rank"], {**asked, **past})[0][0]

    alone = np.concatenate([scores([item]) for item in order[:size]])
    assert np.abs(scores(order[:size]) - alone).max() <= COMPANY


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_rank_graph_has_no_history_to_history_attention(depth: int, dtype: str) -> None:
    """No tensor of a run has two axes of the number of records: only candidates attend."""
    spec = Spec(depth=depth, window=37, width=8, heads=2, fallback_rows=2, cache_dtype=dtype)
    proto, graph = build_graphs(model_of(spec))["rank"]
    records, candidates = 37, 11  # primes, and nothing else of that size
    every = onnx.ModelProto()
    every.CopyFrom(proto)
    del every.graph.output[:]
    for node in proto.graph.node:
        every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    feed = {
        port.name: np.zeros(
            [
                {"batch": 1, "records": records, "candidates": candidates}.get(axis, axis)
                for axis in port.axes
            ],
            port.dtype,
        )
        for port in graph.inputs
    }
    shapes = [out.shape for out in run(session(every), feed)]
    assert len(shapes) > 20 * depth
    assert any(records in shape for shape in shapes)
    seen = (records, records + 1, -(-(records + 1) // VECTOR) * VECTOR)
    assert not [shape for shape in shapes if sum(s in seen for s in shape) > 1]
    assert not any(
        node.domain or node.op_type in ("Loop", "Scan", "If") for node in proto.graph.node
    )


def test_attention_steps_are_counted() -> None:
    """One for each layer where candidates are scored, for each cached depth where records are made.

    Keys and values are made without any.
    """
    spec = Spec(depth=3, window=5, width=8, heads=2, fallback_rows=2)
    steps = dict.fromkeys(("rank", "explain", "projected"), spec.depth)
    steps |= dict.fromkeys(("append", "encode"), spec.cached_depths) | {"project": 0}
    for name, (proto, _) in build_graphs(model_of(spec)).items():
        found = [node for node in proto.graph.node if node.op_type == "Attention"]
        assert len(found) == steps.pop(name)
    assert not steps


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_rounding_is_within_a_step(dtype: str) -> None:
    """What the cache's dtype makes of a record is the record, to the nearest step."""
    spec = Spec(depth=3, window=5, width=8, heads=2, fallback_rows=2)
    small = dataclasses.replace(spec, cache_dtype=dtype)
    whole = timelines(spec, 12)
    exact, rows = encoded(model_of(spec), whole), encode(small, whole)
    if dtype == "int8":
        step = rows[1].astype(np.float32)[..., None]
        assert (np.abs(rows[0] * step - exact) <= 0.501 * step + 1e-6).all()
        assert np.abs(rows[0]).max() == 127
    else:
        assert np.abs(rows[0] - exact).max() <= np.abs(exact).max() * 2.0**-11 + 1e-6


def test_the_axes_of_the_rank_graph() -> None:
    """`batch`, `candidates` and `records` are dynamic in the graph itself, and nothing else is."""
    proto, graph = build_graphs(model_of(Spec(depth=2, window=5, width=8, heads=2)))["rank"]
    told = {axis for port in graph.inputs for axis in port.axes if isinstance(axis, str)}
    real = {
        dim.dim_param
        for port in (*proto.graph.input, *proto.graph.output)
        for dim in port.type.tensor_type.shape.dim
    }
    assert told == real - {""} == {"batch", "candidates", "records"}


def test_one_heads_queries_are_made_by_no_product() -> None:
    """Its wide keys hold their weights, in every layer."""
    several, one = (
        [node.op_type for node in build_graphs(model_of(spec))["rank"][0].graph.node]
        for spec in (Spec(depth=3, window=5, width=8, heads=heads) for heads in (2, 1))
    )
    assert one.count("Gemm") == several.count("Gemm") - 3


@pytest.mark.parametrize("heads", [1, 2])
def test_the_explain_graph_shows_what_attention_does(heads: int) -> None:
    """One layer's weights by hand: softmax of query by key plus the gap's bias, mean of heads."""
    spec = Spec(depth=1, window=5, width=8, heads=heads)
    model = model_of(spec)
    random = np.random.default_rng(0)
    feed = {
        "candidates": random.integers(0, model.items, (1, 3)),
        "timestamp": np.array([10**9]),
        "items": random.integers(0, model.items, (1, 4)),
        "timestamps": np.array([[10, 5_000, 10**8, 2 * 10**9]]),  # the last lies in the future
        "feedback": np.array([[[1], [0], [-1], [1]]], np.int8),
    }
    _, spread, nothing = run(session(build_graphs(model)["explain"][0]), feed)
    layer, tensors = model.layers[0], {name: torch.from_numpy(v) for name, v in feed.items()}
    with torch.no_grad():
        gaps = tensors["timestamp"][:, None, None] - tensors["timestamps"][:, None]
        (bias,) = model._biases(gaps, gaps < 0)
        known = model.embedding(tensors["items"])
        keys, _ = layer.project(known, model._prior(tensors["items"]), tensors["feedback"])
        queries = layer.query(normalised(model.embedding(tensors["candidates"])))
        all_keys = torch.cat([layer.null_key.expand(1, 1, 8), keys], dim=1)
        q, k = (x.reshape(1, -1, heads, 8 // heads).transpose(1, 2) for x in (queries, all_keys))
        scores = q @ k.transpose(2, 3) / math.sqrt(8 // heads) + bias
        weights = torch.softmax(scores, dim=-1).mean(dim=1).numpy()
    np.testing.assert_allclose(spread[:, 0], weights[..., 1:], atol=1e-5)
    np.testing.assert_allclose(nothing[:, 0], weights[..., 0], atol=1e-5)
    assert spread[..., -1].max() == 0
