"""The graphs that only read the ranking model's records: prerank, retrieve, and what goes with it.

Retrieve is exact: every item is multiplied with the user's vector. What costs after that is to
find the largest of them all, so it asks blocks of items for their largest first; the best `k`
items lie in the best `k` blocks.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from models.graph import GraphBuilder
from models.graph_history import bucket_of, memories, read_past
from models.graph_norm import normalised
from models.graph_targets import Targets, ask, mix, relu, since
from models.graph_weights import GraphWeights, as_array
from models.retrieval import Retrieval

Array = np.ndarray[Any, Any]

#: Items that are asked together for their largest score.
BLOCK = 64
#: Fewer blocks are not worth asking.
LEAST_BLOCKS = 64
#: The score of what must not be found; whoever reads the answer leaves it out.
NEVER = -1e30


def prerank(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """The ranking model's records and candidates to scores."""
    candidates, timestamp = ask(g)
    past, times = read_past(w, g)
    targets = Targets(w, g, candidates, timestamp)
    for depth, memory in enumerate(memories(w, g, past, bucket_of(g, since(g, timestamp, times)))):
        targets.attend(depth, *memory)
    targets.score()
    return g


def retrieve(w: GraphWeights, g: GraphBuilder, table: Array) -> GraphBuilder:
    """The ranking model's records to the `k` best rows of `table` (items, width + 1).

    `seen` holds places that are left out, an item's place being its row plus one, and 0 nobody's;
    `wanted` says by its length how many to find. Where there are fewer, the rest scores 0.
    """
    timestamp = g.input("timestamp", "int64", "batch")
    past, times = read_past(w, g)
    seen = g.input("seen", "int64", "batch", "seen")
    wanted = g.input("wanted", "int8", "batch", "k")
    user = _user(w, g, memories(w, g, past, bucket_of(g, since(g, timestamp, times))), timestamp)
    end = g.ints(np.iinfo(np.int64).max)
    vector = g.add("Slice", user, g.ints(0), g.ints(w.width), g.ints(1))
    lean = g.add("Slice", user, g.ints(w.width), end, g.ints(1))  # (batch, 1)
    places = _places(table)
    scores = g.add(
        "Gemm", vector, g.floats(places[:, :-1]), g.floats(places[:, -1]), transB=1
    )  # (batch, places)
    never = g.add("Expand", g.floats(NEVER), g.add("Shape", seen))
    scores = g.add("ScatterElements", scores, seen, never, axis=1)
    count = g.add("Shape", wanted, start=1)
    values, found = _largest(g, scores, count, len(places) // BLOCK)
    likely = g.add("Sigmoid", g.add("Add", values, lean))
    is_one = g.add("Greater", values, g.floats(NEVER / 2))
    g.output(g.add("Where", is_one, likely, g.floats(0.0)), "scores", "float32", "batch", "k")
    rows = g.add("Sub", found, g.constant(1, "int64"))
    none = g.constant(-1, "int64")
    g.output(g.add("Where", is_one, rows, none), "found", "int64", "batch", "k")
    g.output(vector, "user", "float32", "batch", w.width)
    return g


def judge(w: GraphWeights, g: GraphBuilder, table: Array) -> GraphBuilder:
    """The ranking model's records and candidates to the scores that retrieval gives them.

    Candidates are rows of `table` (items, width + 1).
    """
    candidates, timestamp = ask(g)
    past, times = read_past(w, g)
    user = _user(w, g, memories(w, g, past, bucket_of(g, since(g, timestamp, times))), timestamp)
    end = g.ints(np.iinfo(np.int64).max)
    vector = g.add("Slice", user, g.ints(0), g.ints(w.width), g.ints(1))
    lean = g.add("Slice", user, g.ints(w.width), end, g.ints(1))  # (batch, 1)
    rows = g.add("Gather", g.floats(table), candidates)  # (batch, C, width + 1)
    items = g.add("Slice", rows, g.ints(0), g.ints(w.width), g.ints(2))
    bias = g.add("Slice", rows, g.ints(w.width), end, g.ints(2))
    fit = g.add("MatMul", items, g.add("Unsqueeze", vector, g.ints(2)))  # (batch, C, 1)
    logits = g.add("Add", g.add("Add", fit, bias), g.add("Unsqueeze", lean, g.ints(2)))
    g.output(g.add("Sigmoid", logits), "scores", "float32", "batch", "candidates", 1)
    return g


def user(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """The ranking model's records to a user's vector and lean, for an index outside the graph."""
    timestamp = g.input("timestamp", "int64", "batch")
    past, times = read_past(w, g)
    found = _user(w, g, memories(w, g, past, bucket_of(g, since(g, timestamp, times))), timestamp)
    g.output(found, "user", "float32", "batch", w.width + 1)
    return g


def _user(w: GraphWeights, g: GraphBuilder, layers: Any, timestamp: str) -> str:
    """`Retrieval.user`."""
    model = cast("Retrieval", w.model)
    batch = g.add("Shape", timestamp)
    one = g.add("Concat", batch, g.ints(w.width), axis=0)
    stream = g.add("Expand", g.floats(as_array(model.query)[None]), one)
    rows = g.add("Concat", batch, g.ints(1, w.wide), axis=0)
    user = g.add(
        "Expand",
        g.floats(as_array(model.prior)[None]),
        g.add("Concat", batch, g.ints(w.width + 1), axis=0),
    )
    if w.spec.user_embedding:
        # A column of zeros behind them, and a row before them, nobody's.
        table = np.pad(as_array(model.user_table), ((1, 0), (0, 1)))
        own = g.add("Gather", g.floats(table), g.input("user_row", "int64", "batch"))
        first = g.add("Slice", own, g.ints(0), g.ints(w.width), g.ints(1))
        stream, user = g.add("Add", stream, first), g.add("Add", user, own)
    outputs = normalised(w, g, stream)
    for depth, (keys, values) in enumerate(layers):
        queries = w.wide_queries(g, depth, outputs)
        found = g.add(
            "Attention",
            g.add("Reshape", queries, rows),
            keys,
            values,
            q_num_heads=w.heads,
            kv_num_heads=w.heads,
            scale=1.0,
        )
        found = g.add("Reshape", found, g.ints(-1, w.width))
        stream = mix(w, g, depth, stream, found, lambda depth, x: relu(w, g, depth, x))
        outputs = normalised(w, g, stream)
        user = g.add("Gemm", found, g.floats(as_array(model.from_found[depth])), user)
        user = g.add("Gemm", outputs, g.floats(as_array(model.from_output[depth])), user)
    return user


def _places(table: Array) -> Array:
    """The table behind nobody's place, filled up to whole blocks."""
    n = len(table) + 1
    places = np.zeros((-(-n // BLOCK) * BLOCK, table.shape[1]), np.float32)
    places[:, -1] = NEVER
    places[1:n] = table
    return places


def _largest(g: GraphBuilder, scores: str, count: str, blocks: int) -> tuple[str, str]:
    """The `count` largest scores of each row, best first, and where they are: (batch, count)."""
    if blocks < LEAST_BLOCKS:
        values, found = g.split("TopK", 2, scores, count)
        return values, found
    batch = g.add("Shape", scores, end=1)
    by_block = g.add("Reshape", scores, g.ints(-1, blocks, BLOCK))
    largest = g.add("ReduceMax", by_block, g.ints(2), keepdims=0)
    _, best = g.split("TopK", 2, largest, g.add("Min", count, g.ints(blocks)))
    picked = g.add("GatherND", by_block, g.add("Unsqueeze", best, g.ints(2)), batch_dims=1)
    flat = g.add("Reshape", picked, g.add("Concat", batch, g.ints(-1), axis=0))
    values, at = g.split("TopK", 2, flat, count)
    size = g.constant(BLOCK, "int64")
    block = g.add("GatherElements", best, g.add("Div", at, size), axis=1)
    return values, g.add("Add", g.add("Mul", block, size), g.add("Mod", at, size))
