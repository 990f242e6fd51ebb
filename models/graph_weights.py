"""GraphWeights: a model's weights as numpy arrays, in the shapes its graphs want them in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from torch import Tensor

from models.attention import MASKED, TargetAttention
from models.graph import GraphBuilder
from models.ranking_model import Scorer
from models.reader import Reader

Array = np.ndarray[Any, Any]


class GraphWeights:
    """The weights, those of the history side for all layers together, and the sizes.

    Keys and queries come `wide` where the graph adds a bias to every score: one more column per
    head, in which every query holds a 1 and every key its bias. A single head's queries are no
    more than that: their weights are in its wide keys already, since (x W + b) k = x (W k) + b k.
    Of several heads each would need keys as wide as all of them.
    """

    def __init__(self, model: Reader) -> None:
        self.model = model
        self.spec = model.spec
        self.width = model.spec.width
        self.heads = model.spec.heads
        self.head = model.spec.width // model.spec.heads
        self.wide = model.spec.width + model.spec.heads
        self.tasks = len(model.spec.tasks)
        self.expectation = as_array(model.expectation)
        layers = model.layers
        self.key = np.array([as_array(layer.key.weight).T for layer in layers])
        self.value = np.array([as_array(layer.value.weight).T for layer in layers])
        self.foresight = np.array([as_array(layer.foresight) for layer in layers])
        # (depth, tasks, 3, width): what each state of feedback adds.
        self.key_states = np.array([as_array(layer.feedback_key) for layer in layers])
        self.value_states = np.array([as_array(layer.feedback_value) for layer in layers])
        # What each state adds to scores: (tasks, 3), for wide keys.
        self.state_biases = np.zeros((self.tasks, 3), np.float32)
        if model.spec.where is not None:
            self.state_biases[model.spec.where, :2] = MASKED

    @cached_property
    def item_bias(self) -> Array:
        return as_array(cast("Scorer", self.model).item_bias.weight)

    @cached_property
    def null_key(self) -> Array:
        """(depth, 1, width)."""
        layers = cast("Sequence[TargetAttention]", self.model.layers)
        return np.array([as_array(layer.null_key)[None] for layer in layers])

    @cached_property
    def null_value(self) -> Array:
        """(depth, 1, width)."""
        layers = cast("Sequence[TargetAttention]", self.model.layers)
        return np.array([as_array(layer.null_value)[None] for layer in layers])

    def look_up(self, g: GraphBuilder, rows: str) -> str:
        """Items' vectors, as nodes: rows (…) to (…, width)."""
        return self.model.embedding.write(g, rows)

    def query(self, depth: int) -> tuple[Array, Array]:
        """Weight (width, width) and bias; scores come out divided by the root of the head size."""
        layer = self.model.layers[depth]
        scale = 1 / math.sqrt(self.head)
        return as_array(layer.query.weight).T * scale, as_array(layer.query.bias) * scale

    def wide_queries(self, g: GraphBuilder, depth: int, outputs: str) -> str:
        """What targets ask by, as nodes: outputs of the layer below (N, width) to (N, wide)."""
        if self.heads > 1:
            weight, bias = self.query(depth)
            weights = g.floats(self.widened(weight)), g.floats(self.widened(bias, 1.0))
            return g.add("Gemm", outputs, *weights)
        rows = g.add("Concat", g.add("Shape", outputs, end=1), g.ints(1), axis=0)
        return g.add("Concat", outputs, g.add("Expand", g.floats(1.0), rows), axis=1)

    def wide_keys(self, keys: Array, bias: Array | float = 0.0) -> Array:
        """Keys of all layers, or their weights, for `wide_queries`: (depth, …, width) to wide."""
        if self.heads > 1:
            return self.widened(keys, bias)
        weights, biases = zip(*map(self.query, range(len(keys))), strict=True)
        asked = np.einsum("l...k,lqk->l...q", keys, np.array(weights), dtype=np.float64)
        moved = np.einsum("l...k,lk->l...", keys, np.array(biases), dtype=np.float64)
        moved = moved[..., None] + np.broadcast_to(bias, (*moved.shape, 1, 1))[..., 0]
        return np.concatenate([asked, moved], axis=-1).astype(np.float32)

    def gaps(self, depth: int) -> Array:
        """Bias by bucket and head: (buckets, heads); bucket 0, the future, is masked."""
        bias = as_array(self.model.layers[depth].gap_bias)
        if not self.spec.time_gap:
            bias = np.zeros_like(bias)
        return np.concatenate([np.full((1, self.heads), MASKED, np.float32), bias[1:]])

    def wide_key_states(self) -> list[Array]:
        """Per task what feedback adds to wide keys: (depth, 3, wide) each."""
        biases = self.state_biases[None, :, :, None, None]
        return list(np.moveaxis(self.wide_keys(self.key_states, biases), 1, 0))

    def timed_key_states(self) -> list[Array]:
        """Per task what feedback adds to wide keys; the first task's with the gap's bias.

        (depth, buckets * 3, wide), row 3 bucket + state, then (depth, 3, wide) for each other.
        """
        first, *others = self.wide_key_states()
        gaps = np.array([self.gaps(depth) for depth in range(self.spec.layers)])
        bias = self.widened(np.zeros((*gaps.shape[:2], self.width), np.float32), gaps[..., None])
        both = bias[:, :, None] + first[:, None]
        return [both.reshape(len(both), -1, self.wide), *others]

    def leading(self, rows: int) -> tuple[Array, Array]:
        """Wide keys and values that stand before history: masked ones, the null token last.

        (depth, rows, wide) and (depth, rows, width).
        """
        nothing = np.zeros((self.spec.layers, rows - 1, self.width), np.float32)
        keys = [self.widened(nothing, MASKED), self.wide_keys(self.null_key)]
        return np.concatenate(keys, axis=1), np.concatenate([nothing, self.null_value], axis=1)

    def widened(self, keys: Array, bias: Array | float = 0.0) -> Array:
        """Columns by head (…, width), with a bias (…, heads, 1) or one for all: (…, wide)."""
        by_head = keys.reshape(*keys.shape[:-1], self.heads, self.head)
        column = np.broadcast_to(np.float32(bias), (*by_head.shape[:-1], 1))
        wide = np.concatenate([by_head, column], axis=-1)
        return wide.reshape(*keys.shape[:-1], self.wide)


def as_array(tensor: Tensor) -> Array:
    """The numbers of a parameter, not copied."""
    return tensor.detach().numpy()
