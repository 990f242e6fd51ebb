"""RankingModel: what the families share, as training and the trusted path run it in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.attention import MASKED, Layer, TargetAttention, gap_buckets
from models.gap_bias import gap_bias
from models.spec import TIME_GAP_EDGES_S, Spec


class History(NamedTuple):
    """What a target can see: events in time order, R of them.

    items int64 (B, R); timestamps int64 seconds (B, R); feedback int8 (B, R, tasks), -1 unknown;
    records float32 (B, R, cached depths, width): outputs of depth 1 …
    """

    items: Tensor
    timestamps: Tensor
    feedback: Tensor
    records: Tensor


class RankingModel(nn.Module, ABC):
    """Item tables, layers of target attention, and a read-out of every layer.

    `forward_full` computes a whole timeline at once; `forward_cached` computes candidates from
    what a request reads, as `rank.onnx` does. They are the same function.
    """

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.items = items
        rows, tasks = items + spec.fallback_rows, len(spec.tasks)
        self.embedding = nn.Embedding(rows, spec.width)
        self.item_bias = nn.Embedding(rows, tasks)
        layers = nn.ModuleList(self._layer(depth, dropout) for depth in range(spec.depth))
        self.layers = cast("Sequence[Layer]", layers)
        self.heads = nn.Parameter(torch.zeros(spec.depth, spec.width, tasks))
        self.match = nn.Parameter(torch.zeros(spec.depth, spec.width, tasks))
        self.lean = nn.Parameter(torch.zeros(spec.depth, spec.width, tasks))
        # What an item gets from anyone: the label's mean over the training events, per task.
        self.expectation: Tensor
        self.register_buffer("expectation", torch.full((rows, tasks), 0.5))
        self.edges_s: Tensor
        self.register_buffer("edges_s", torch.tensor(TIME_GAP_EDGES_S), persistent=False)

    @abstractmethod
    def forward_full(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        """Logits of every event of whole timelines, each predicted from the events before it.

        items, timestamps int64 (B, T); feedback int8 (B, T, tasks); `visible` int64 (B, T): the
        target at position i sees the window of events before position visible[i] <= i, as of
        the time `asked_at[i]`. Returns (B, T, tasks).
        """

    def forward_targets(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        """As `forward_full`, of any targets: item rows int64 (B, M), visible and asked_at (B, M).

        Returns (B, M, tasks). Here the targets follow the timeline as more events, none of which
        sees another; a family that can do with less says so.
        """
        own = torch.arange(items.shape[1], device=items.device).expand_as(items)
        unknown = feedback.new_full((*targets.shape, feedback.shape[2]), -1)
        logits = self.forward_full(
            torch.cat([items, targets], dim=1),
            torch.cat([timestamps, asked_at], dim=1),
            torch.cat([feedback, unknown], dim=1),
            torch.cat([own, visible], dim=1),
            torch.cat([timestamps, asked_at], dim=1),
        )
        return logits[:, items.shape[1] :]

    @abstractmethod
    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        """Logits of candidates from what a request reads.

        candidates int64 (B, C); timestamp int64 (B,); at most `spec.reads` events of history,
        those later than the timestamp unseen. Returns (B, C, tasks).
        """

    def _layer(self, depth: int, dropout: float) -> Layer:
        spec, tasks = self.spec, len(self.spec.tasks)
        return TargetAttention(
            spec.width, spec.heads, tasks, time_gap=spec.time_gap, dropout=dropout
        )

    def _unseen(self, ends: Tensor, position: Tensor) -> Tensor:
        """True where an event lies outside the window of `window` events before `ends`."""
        return (position >= ends) | (position < ends - self.spec.window)

    def _biases(self, gaps_s: Tensor, masked: Tensor) -> tuple[Tensor, ...]:
        """Per layer the bias of each target with the null key and each event.

        Each is (B, heads or 1, targets, 1 + events).
        """
        if not self.spec.time_gap or not self.spec.depth:
            wall = torch.where(masked, MASKED, 0.0)[:, None]
            return (nn.functional.pad(wall, (1, 0)),) * self.spec.depth
        # Row 0 hides, the last one is the null key's.
        bias = torch.cat([layer.gap_bias for layer in self.layers], dim=1)[1:]
        table = nn.functional.pad(bias, (0, 0, 1, 0), value=MASKED)
        table = nn.functional.pad(table, (0, 0, 0, 1))  # (buckets + 1, depth * heads)
        buckets = gap_buckets(gaps_s, self.edges_s).masked_fill(masked, 0)
        buckets = nn.functional.pad(buckets, (1, 0), value=len(table) - 1)
        return tuple(gap_bias(part, buckets) for part in table.split(self.spec.heads, dim=1))

    def _prior(self, items: Tensor) -> Tensor:
        """Logit of what each item gets from anyone: (B, R, tasks)."""
        return torch.logit(nn.functional.embedding(items, self.expectation))

    def _read_out(self, depth: int, start: Tensor, found: Tensor, outputs: Tensor) -> Tensor:
        """One layer's share of the logits: its output, what it found, and how the item matches."""
        matched = (start * found) @ self.match[depth]
        return outputs @ self.heads[depth] + found @ self.lean[depth] + matched
