"""Reader: what every model does with a history: item tables, and layers that attend to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.attention import MASKED, Layer, TargetAttention, gap_buckets
from models.embeddings.kinds import item_table
from models.gap_bias import gap_bias
from models.spec import TIME_GAP_EDGES_S, Spec


class History(NamedTuple):
    """What a target can see: events in time order, R of them.

    items int64 (B, R); timestamps int64 seconds (B, R); feedback int8 (B, R, tasks), -1 unknown;
    records float32 (B, R, cached depths, width): outputs of depth 1 …; summary float32
    (B, tokens, width) of the first `covered` events, int64 (B,), in the families that have one.
    """

    items: Tensor
    timestamps: Tensor
    feedback: Tensor
    records: Tensor
    summary: Tensor | None = None
    covered: Tensor | None = None


class Reader(nn.Module):
    """Items of history as vectors, what is expected of each, and the layers that attend to them."""

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.items = items
        rows, tasks = items + spec.fallback_rows, len(spec.tasks)
        self.embedding = item_table(spec, items)
        layers = nn.ModuleList(self._layer(depth, dropout) for depth in range(spec.layers))
        self.layers = cast("Sequence[Layer]", layers)
        # What an item gets from anyone: the label's mean over the training events, per task.
        self.expectation: Tensor
        self.register_buffer("expectation", torch.full((rows, tasks), 0.5))
        self.edges_s: Tensor
        self.register_buffer("edges_s", torch.tensor(TIME_GAP_EDGES_S), persistent=False)

    def _layer(self, depth: int, dropout: float) -> Layer:
        spec, tasks = self.spec, len(self.spec.tasks)
        return TargetAttention(
            spec.width, spec.heads, tasks, time_gap=spec.time_gap, dropout=dropout
        )

    def _unseen(self, ends: Tensor, position: Tensor) -> Tensor:
        """True where an event lies outside the window of `window` events before `ends`."""
        return (position >= ends) | (position < ends - self.spec.window)

    def _hidden(self, masked: Tensor, feedback: Tensor) -> Tensor:
        """`masked` (B, targets, R), and every event that does not count as history.

        feedback int8 (B, R, tasks).
        """
        where = self.spec.where
        return masked if where is None else masked | (feedback[:, None, :, where] != 1)

    def _biases(
        self, gaps_s: Tensor, masked: Tensor, missed: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Per layer the bias of each target with the null key and each event.

        Each is (B, heads or 1, targets, 1 + events). From the second layer on, nobody sees an event
        that is `missed` (B, 1, events).
        """
        layers = self.spec.layers
        if not self.spec.time_gap or not layers:
            walls = [masked] * layers if missed is None else [masked, *[masked | missed] * layers]
            pad = nn.functional.pad
            return tuple(
                pad(torch.where(wall, MASKED, 0.0)[:, None], (1, 0)) for wall in walls[:layers]
            )
        # Row 0 hides, the last one is the null key's.
        bias = torch.cat([layer.gap_bias for layer in self.layers], dim=1)[1:]
        table = nn.functional.pad(bias, (0, 0, 1, 0), value=MASKED)
        table = nn.functional.pad(table, (0, 0, 0, 1))  # (buckets + 1, depth * heads)
        buckets = gap_buckets(gaps_s, self.edges_s).masked_fill(masked, 0)
        buckets = nn.functional.pad(buckets, (1, 0), value=len(table) - 1)
        later = buckets
        if missed is not None:
            later = buckets.masked_fill(nn.functional.pad(missed, (1, 0)), 0)
        parts = table.split(self.spec.heads, dim=1)
        return tuple(
            gap_bias(part, later if depth else buckets) for depth, part in enumerate(parts)
        )

    def _prior(self, items: Tensor) -> Tensor:
        """Logit of what each item gets from anyone: (B, R, tasks)."""
        return torch.logit(nn.functional.embedding(items, self.expectation))
