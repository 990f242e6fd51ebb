"""Marm: stacked target attention whose outputs are cached layer by layer (arXiv 2411.09425).

Layer l lets the target of depth l-1 attend to the history's records of depth l-1. A record of an
event is what the event's item was as a target when it was exposed, so it depends on the events
before it and on nothing later, not even on its own feedback: computed once, it can be cached.
`forward_full` computes a whole timeline at once; `forward_cached` computes targets against
records. They are the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.attention import MASKED, TargetAttention, gap_buckets, normalised
from models.spec import TIME_GAP_EDGES_S, Spec


class History(NamedTuple):
    """What a target can see: events in time order, R of them.

    items int64 (B, R); timestamps int64 seconds (B, R); feedback int8 (B, R, tasks), -1 unknown;
    records float32 (B, R, depth - 1, width): outputs of depth 1 … depth - 1.
    """

    items: Tensor
    timestamps: Tensor
    feedback: Tensor
    records: Tensor


class Marm(nn.Module):
    """The model, as training and the trusted path run it; serving runs its graphs."""

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.items = items
        rows, tasks = items + spec.fallback_rows, len(spec.tasks)
        self.embedding = nn.Embedding(rows, spec.width)
        self.item_bias = nn.Embedding(rows, tasks)
        layers = nn.ModuleList(
            TargetAttention(spec.width, spec.heads, tasks, time_gap=spec.time_gap, dropout=dropout)
            for _ in range(spec.depth)
        )
        self.layers = cast("Sequence[TargetAttention]", layers)
        self.heads = nn.Parameter(torch.zeros(spec.depth, spec.width, tasks))
        self.match = nn.Parameter(torch.zeros(spec.depth, spec.width, tasks))
        self.lean = nn.Parameter(torch.zeros(spec.depth, spec.width, tasks))
        # What an item gets from anyone: the label's mean over the training events, per task.
        self.expectation: Tensor
        self.register_buffer("expectation", torch.full((rows, tasks), 0.5))
        self.edges_s: Tensor
        self.register_buffer("edges_s", torch.tensor(TIME_GAP_EDGES_S), persistent=False)

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
        T = items.shape[1]
        position = torch.arange(T, device=items.device)
        ends = torch.cat([position.expand_as(items), visible], dim=1)  # (B, 2T)
        asked = torch.cat([timestamps, asked_at], dim=1)
        gaps = asked[:, :, None] - timestamps[:, None, :]  # (B, 2T, T)
        biases = self._biases(gaps, self._unseen(ends[:, :, None], position))
        prior = self._prior(items)
        start = self.embedding(items)
        known = start  # the history's records at the current depth
        # What was exposed, then what is asked.
        stream = torch.cat([self._exposed(start, feedback), start], dim=1)
        outputs = normalised(stream)
        logits: Tensor = self.item_bias(items)
        for depth, layer in enumerate(self.layers):
            bias = biases[depth]
            if depth == self.spec.depth - 1:
                # Nothing attends to the last layer's records: only what is asked goes on.
                outputs, stream, bias = outputs[:, T:], stream[:, T:], bias[:, :, T:]
            found = layer.attend(outputs, *layer.project(known, prior, feedback), bias)
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            known = outputs[:, :-T]
            logits = logits + self._read_out(depth, start, found[:, -T:], outputs[:, -T:])
        return logits

    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        """Logits of candidates against cached records: only the candidates' own steps.

        candidates int64 (B, C); timestamp int64 (B,); at most `window` events of history, those
        later than the timestamp unseen. Returns (B, C, tasks).
        """
        gaps = timestamp[:, None, None] - history.timestamps[:, None, :]  # (B, 1, R)
        biases = self._biases(gaps, gaps < 0)
        prior, feedback = self._prior(history.items), history.feedback
        start = self.embedding(candidates)
        known = self.embedding(history.items)
        stream, outputs = start, normalised(start)
        logits: Tensor = self.item_bias(candidates)
        for depth, layer in enumerate(self.layers):
            found = layer.attend(outputs, *layer.project(known, prior, feedback), biases[depth])
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            logits = logits + self._read_out(depth, start, found, outputs)
            if depth < self.spec.cached_depths:
                known = history.records[:, :, depth]
        return logits

    def append(
        self, history: History, items: Tensor, timestamps: Tensor, feedback: Tensor
    ) -> Tensor:
        """Records of T new events that follow cached ones: (B, T, depth - 1, width)."""
        R, T = history.items.shape[1], items.shape[1]
        position = torch.arange(R + T, device=items.device)
        times = torch.cat([history.timestamps, timestamps], dim=1)
        gaps = timestamps[:, :, None] - times[:, None, :]  # (B, T, R + T)
        # Padding lies in the future of every event.
        biases = self._biases(gaps, self._unseen(position[R:, None], position) | (gaps < 0))
        prior = self._prior(torch.cat([history.items, items], dim=1))
        feedback = torch.cat([history.feedback, feedback], dim=1)
        stream = self.embedding(items)
        known = torch.cat([self.embedding(history.items), stream], dim=1)
        outputs = normalised(stream)
        records = []
        for depth in range(self.spec.cached_depths):
            layer = self.layers[depth]
            found = layer.attend(outputs, *layer.project(known, prior, feedback), biases[depth])
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            records.append(outputs)
            known = torch.cat([history.records[:, :, depth], outputs], dim=1)
        if not records:
            none: Tensor = stream.new_zeros(*stream.shape[:2], 0, self.spec.width)
            return none
        return torch.stack(records, dim=2)

    def encode(self, items: Tensor, timestamps: Tensor, feedback: Tensor) -> Tensor:
        """Records of a whole timeline from nothing: (B, T, depth - 1, width)."""
        B = items.shape[0]
        nothing = History(
            items.new_zeros(B, 0),
            timestamps.new_zeros(B, 0),
            feedback.new_zeros(B, 0, len(self.spec.tasks)),
            self.embedding.weight.new_zeros(B, 0, self.spec.cached_depths, self.spec.width),
        )
        return self.append(nothing, items, timestamps, feedback)

    def _exposed(self, start: Tensor, feedback: Tensor) -> Tensor:
        """What an event's record is made from: its item, and nothing of its own feedback.

        So late feedback spoils no record of its own event, and a record equals what the item
        was as a candidate. Feeding it in gains nothing (docs/numbers.md).
        """
        return start

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
        found = nn.functional.embedding(buckets, table).permute(0, 3, 1, 2)
        biases: tuple[Tensor, ...] = found.split(self.spec.heads, dim=1)
        return biases

    def _prior(self, items: Tensor) -> Tensor:
        """Logit of what each item gets from anyone: (B, R, tasks)."""
        return torch.logit(nn.functional.embedding(items, self.expectation))

    def _read_out(self, depth: int, start: Tensor, found: Tensor, outputs: Tensor) -> Tensor:
        """One layer's share of the logits: its output, what it found, and how the item matches."""
        matched = (start * found) @ self.match[depth]
        return outputs @ self.heads[depth] + found @ self.lean[depth] + matched
