"""Stca: stacked target-to-history cross attention over the events themselves (arXiv 2511.06077).

The query of a layer is a learned fusion of the raw target and the outputs of the layers below;
each layer ends in a SwiGLU block. Raw tokens know nothing of what came before them, so each event
carries its recency, how many events are newer, as a learned bias by head: order reaches the score
also where time gaps are off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.attention import Layer, TargetAttention
from models.raw_history import RawHistory


class CrossAttention(TargetAttention):
    """A layer of `Stca`; `below` counts the layers under it."""

    def __init__(
        self,
        width: int,
        heads: int,
        tasks: int,
        *,
        below: int,
        window: int,
        time_gap: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(width, heads, tasks, time_gap=time_gap, dropout=dropout)
        self.fuse = nn.Linear((1 + below) * width, width, bias=False)
        self.gate = nn.Linear(width, 2 * width)
        # Each head at first forgets at a pace of its own (ALiBi, arXiv 2108.12409).
        paces = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        self.recency = nn.Parameter(-torch.arange(window)[:, None] * paces)

    @property
    def additions(self) -> tuple[nn.Linear, ...]:
        return *super().additions, self.fuse

    def weigh_evenly(self, null_events: float) -> None:
        super().weigh_evenly(null_events)
        self.recency.zero_()

    def inner(self, x: Tensor) -> Tensor:
        gated: Tensor = nn.functional.silu(self.gate(x)) * self.expand(x)
        return gated


class Stca(RawHistory):
    """The family without a cache whose depth costs a layer per candidate, as in `Marm`."""

    def _layer(self, depth: int, dropout: float) -> Layer:
        spec = self.spec
        return CrossAttention(
            spec.width,
            spec.heads,
            len(spec.tasks),
            below=depth,
            window=spec.window,
            time_gap=spec.time_gap,
            dropout=dropout,
        )

    def _fused(self, depth: int, start: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        layer = cast("CrossAttention", self.layers[depth])
        fused: Tensor = start + layer.fuse(torch.cat([*outputs], dim=-1))
        return fused

    def _seen(self, gaps_s: Tensor, masked: Tensor, ages: Tensor) -> Sequence[Tensor]:
        biases = self._biases(gaps_s, masked)
        if not biases:
            return biases
        layers = cast("Sequence[CrossAttention]", self.layers)
        table = torch.cat([layer.recency for layer in layers], dim=1)  # (window, depth * heads)
        found = nn.functional.embedding(ages.clamp(0, len(table) - 1), table)
        recency = nn.functional.pad(found.permute(0, 3, 1, 2), (1, 0))  # the null key has none
        parts = recency.split(self.spec.heads, dim=1)
        return [bias + part for bias, part in zip(biases, parts, strict=True)]
