"""The graphs of the families that summarise: Stca's with tokens before the window, and summarise.

`rank.onnx` takes the tokens as the cache has them; `summarise.onnx` adds events to the sums and
reads tokens from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx

from models.attention import MASKED
from models.graph import GraphBuilder
from models.graph_history import bucket_of, memories, parts_of, read_past
from models.graph_targets import ask, since
from models.graph_weights import GraphWeights, as_array
from models.stca_graphs import Fused, ages_of, recency_of
from models.summarised import Summarised, SummaryAttention
from models.summary import HALF_KEYS, MOST_SCORE, PICKED, Experts, Seeds

Array = np.ndarray[Any, Any]


def rank(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """A window of events, a summary and candidates to scores."""
    candidates, timestamp = ask(g)
    past, times = read_past(w, g)
    tokens = _tokens(w, g)
    gap = since(g, timestamp, times)
    targets = Fused(w, g, candidates, timestamp)
    recency = (recency_of(w), ages_of(w, g, past.items))
    memory = memories(w, g, past, bucket_of(g, gap), [recency])
    for depth, pairs in enumerate(zip(tokens, memory, strict=True)):
        keys, values = (g.add("Concat", *both, axis=1) for both in zip(*pairs, strict=True))
        targets.attend(depth, keys, values)
    targets.score()
    return g


def summarise(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Sums and more events to sums and tokens; `present` is 0 where an event only fills up."""
    model, row = cast("Summarised", w.model), w.spec.summary_row
    state = g.input("state", "float32", "batch", *row["state"].shape)
    items = g.input("items", "int64", "batch", "events")
    before = g.input("before", "int64", "batch", "events")
    gaps_s = g.input("gaps_s", "int64", "batch", "events")
    feedback = g.input("feedback", "int8", "batch", "events", w.tasks)
    present = g.input("present", "int8", "batch", "events")
    keys, values = _taken_in(w, g, items, before, gaps_s, feedback)
    weight = g.add("Unsqueeze", g.add("Cast", present, to=onnx.TensorProto.FLOAT), g.ints(2))
    if isinstance(model.dispatch, Seeds):
        features = _seeds_features(g, model.dispatch, keys)
    else:
        features = _experts_features(w, g, cast("Experts", model.dispatch), keys)
    features = g.add("Mul", features, weight)
    ones = g.add("Add", g.add("Mul", weight, g.floats(0.0)), g.floats(1.0))
    values = g.add("Concat", values, ones, axis=2)
    added = g.add("MatMul", g.add("Transpose", features, perm=[0, 2, 1]), values)
    state = g.add("Add", state, added)
    if isinstance(model.dispatch, Seeds):
        tokens = _seeds_tokens(w, g, model.dispatch, state)
    else:
        tokens = _experts_tokens(w, g, cast("Experts", model.dispatch), state)
    _write(w, g, tokens)
    g.output(state, "new_state", "float32", "batch", *row["state"].shape)
    return g


def _taken_in(
    w: GraphWeights, g: GraphBuilder, items: str, before: str, gaps_s: str, feedback: str
) -> tuple[str, str]:
    """`Intake`: keys and values (batch, events, width)."""
    model = cast("Summarised", w.model)
    intake = model.intake
    known = w.look_up(g, items)
    zero = g.constant(0, "int64")
    is_first = g.add("Unsqueeze", g.add("Less", before, zero), g.ints(-1))
    earlier = w.look_up(g, g.add("Max", before, zero))
    earlier = g.add("Where", is_first, g.floats(as_array(model.nothing)), earlier)
    label = g.add("Cast", feedback, to=onnx.TensorProto.FLOAT)
    missed = g.add("Sub", label, g.add("Gather", g.floats(w.expectation), items))
    is_unknown = g.add("Less", label, g.floats(0.0))
    residual = g.add("Where", is_unknown, g.floats(0.0), missed)
    scaled = [g.add("Mul", known, part) for part in parts_of(g, w.tasks, residual, axis=2)]
    joined = g.add("Concat", known, *scaled, residual, earlier, axis=2)
    values = g.add("MatMul", joined, g.floats(as_array(intake.value.weight).T))
    keys = g.add("Concat", known, earlier, axis=2)
    keys = g.add("MatMul", keys, g.floats(as_array(intake.key.weight).T))
    gap_key = as_array(intake.gap_key) + as_array(intake.key.bias)
    keys = g.add("Add", keys, g.add("Gather", g.floats(gap_key), bucket_of(g, gaps_s)))
    state = g.add("Cast", feedback, to=onnx.TensorProto.INT32)
    states = parts_of(g, w.tasks, g.add("Add", state, g.constant(1, "int32")), axis=2)
    for task, found in enumerate(states):
        row = g.add("Squeeze", found, g.ints(2))
        key, value = (as_array(each)[task] for each in (intake.feedback_key, intake.feedback_value))
        keys = g.add("Add", keys, g.add("Gather", g.floats(key), row))
        values = g.add("Add", values, g.add("Gather", g.floats(value), row))
    return keys, values


def _silu(g: GraphBuilder, x: str) -> str:
    return g.add("Mul", x, g.add("Sigmoid", x))


def _seeds_features(g: GraphBuilder, seeds: Seeds, keys: str) -> str:
    weight, bias = as_array(seeds.gate.weight).T, as_array(seeds.gate.bias)
    passed = g.add("MatMul", keys, g.floats(weight))
    passed = g.add("Sigmoid", g.add("Add", passed, g.floats(bias)))
    return g.add("Concat", g.add("Mul", _silu(g, keys), passed), passed, axis=2)


def _seeds_tokens(w: GraphWeights, g: GraphBuilder, seeds: Seeds, state: str) -> str:
    sums, weights = g.split("Split", 2, state, g.ints(w.width, 1), axis=2)
    passed = g.add("Slice", weights, g.ints(-1), g.ints(2**31), g.ints(1))  # (batch, 1, 1)
    mean = g.add("Div", sums, g.add("Add", passed, g.floats(1.0)))
    inner, plain = g.split("Split", 2, mean, g.ints(w.width, 1), axis=1)
    asked = as_array(seeds.seeds)
    asked = asked / (1 + np.exp(-asked))
    outer = g.add("MatMul", g.floats(asked), _silu(g, inner))
    return g.add("Add", outer, g.add("MatMul", g.floats(as_array(seeds.share)), plain))


def _experts_features(w: GraphWeights, g: GraphBuilder, experts: Experts, keys: str) -> str:
    scale = 1 / (math.sqrt(w.width) * MOST_SCORE)
    scores = g.add("MatMul", keys, g.floats(as_array(experts.experts.weight).T * scale))
    scores = g.add("Add", scores, g.floats(as_array(experts.experts.bias) * scale))
    return g.add("Exp", g.add("Mul", g.add("Tanh", scores), g.floats(MOST_SCORE)))


def _experts_tokens(w: GraphWeights, g: GraphBuilder, experts: Experts, state: str) -> str:
    sums, weights = g.split("Split", 2, state, g.ints(w.width, 1), axis=2)
    found = g.add("Div", sums, g.add("Add", weights, g.floats(1.0)))  # (batch, tokens, width)
    asked = g.add("MatMul", found, g.floats(as_array(experts.ask.weight).T))
    halves = parts_of(g, 2, asked, axis=2)
    most, tokens = g.ints(PICKED + 1), w.spec.summary
    best = [
        g.split("TopK", 2, g.add("MatMul", half, g.floats(keys.T)), most, axis=2)
        for half, keys in zip(halves, as_array(experts.half_keys), strict=True)
    ]
    flat = g.ints(0, tokens, (PICKED + 1) ** 2)

    def paired(first: str, second: str) -> str:
        both = g.add("Unsqueeze", first, g.ints(3)), g.add("Unsqueeze", second, g.ints(2))
        return g.add("Reshape", g.add("Add", *both), flat)

    rows = g.add("Mul", best[0][1], g.constant(HALF_KEYS, "int64"))
    pairs, slots = paired(best[0][0], best[1][0]), paired(rows, best[1][1])
    scores, places = g.split("TopK", 2, pairs, most, axis=2)
    kept, rest = g.split("Split", 2, scores, g.ints(PICKED, 1), axis=2)
    weights = g.add("Sub", kept, rest)  # (batch, tokens, PICKED)
    places, _ = g.split("Split", 2, places, g.ints(PICKED, 1), axis=2)
    slots = g.add("GatherElements", slots, places, axis=2)
    memory = g.add("Gather", g.floats(as_array(experts.memory.weight)), slots)
    read = g.add(
        "Squeeze", g.add("MatMul", g.add("Unsqueeze", weights, g.ints(2)), memory), g.ints(2)
    )
    total = g.add("ReduceSum", weights, g.ints(2), keepdims=1)
    return g.add("Add", found, g.add("Div", read, g.add("Add", total, g.floats(1.0))))


def _write(w: GraphWeights, g: GraphBuilder, tokens: str) -> None:
    """Names the tokens as the cache has them; int8 with one scale per token."""
    axes, dtype = ("batch", w.spec.summary), w.spec.cache_dtype
    if dtype == "float32":
        g.output(tokens, "new_summary", dtype, *axes, w.width)
        return
    if dtype == "float16":
        half = g.add("Cast", tokens, to=onnx.TensorProto.FLOAT16)
        g.output(half, "new_summary", dtype, *axes, w.width)
        return
    most = g.add("ReduceMax", g.add("Abs", tokens), g.ints(2), keepdims=0)
    scale = g.add("Max", g.add("Div", most, g.floats(127.0)), g.floats(1e-4))
    half = g.add("Cast", scale, to=onnx.TensorProto.FLOAT16)
    # Divided by what will be multiplied with: the scale after its rounding.
    back = g.add("Unsqueeze", g.add("Cast", half, to=onnx.TensorProto.FLOAT), g.ints(2))
    steps = g.add(
        "Clip", g.add("Round", g.add("Div", tokens, back)), g.floats(-127.0), g.floats(127.0)
    )
    g.output(g.add("Cast", steps, to=onnx.TensorProto.INT8), "new_summary", dtype, *axes, w.width)
    g.output(half, "new_summary_scales", "float16", *axes)


def _tokens(w: GraphWeights, g: GraphBuilder) -> Sequence[tuple[str, str]]:
    """The summary as each layer attends to it: wide keys (batch, tokens, wide), and values."""
    spec, row = w.spec, w.spec.summary_row
    tokens = g.input("summary", row["summary"].base.name, "batch", spec.summary, w.width)
    if spec.cache_dtype != "float32":
        tokens = g.add("Cast", tokens, to=onnx.TensorProto.FLOAT)
    if spec.cache_dtype == "int8":
        scales = g.input("summary_scales", "float16", "batch", spec.summary)
        scales = g.add("Cast", scales, to=onnx.TensorProto.FLOAT)
        tokens = g.add("Mul", tokens, g.add("Unsqueeze", scales, g.ints(2)))
    covered = g.input("covered", "int64", "batch")
    if not spec.depth:
        return ()
    layers = cast("Sequence[SummaryAttention]", w.model.layers)
    known = g.add("Reshape", tokens, g.ints(1, -1, w.width))
    key = np.array([as_array(layer.token_key.weight).T for layer in layers])
    value = np.array([as_array(layer.token_value.weight).T for layer in layers])
    keys = g.add("MatMul", known, g.floats(w.wide_keys(key)))
    values = g.add("MatMul", known, g.floats(value))
    bias = np.array([as_array(layer.coverage) for layer in layers])  # (depth, buckets, heads)
    bias = np.concatenate([np.full_like(bias[:, :2], MASKED), bias[:, 2:]], axis=1)
    table = w.widened(np.zeros((*bias.shape[:2], w.width), np.float32), bias[..., None])
    row_of = g.add("Gather", g.floats(table), bucket_of(g, covered), axis=1)
    keys = g.add("Reshape", keys, g.ints(spec.depth, -1, spec.summary, w.wide))
    keys = g.add("Add", keys, g.add("Unsqueeze", row_of, g.ints(2)))
    values = g.add("Reshape", values, g.ints(spec.depth, -1, spec.summary, w.width))
    both = (parts_of(g, spec.depth, part, axis=0) for part in (keys, values))
    return [
        (g.add("Squeeze", key, g.ints(0)), g.add("Squeeze", value, g.ints(0)))
        for key, value in zip(*both, strict=True)
    ]
