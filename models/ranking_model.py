"""RankingModel: what the families share, as training and the trusted path run it in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from models.attention import TargetAttention
from models.reader import History, Reader
from models.search import NO_CATEGORY, found_by_category, newest
from models.spec import Spec

__all__ = ["History", "RankingModel", "Scorer"]

#: Targets that are computed at once; none of them sees another.
MOST_AT_ONCE = 2_000


class Scorer(Reader, ABC):
    """A reader whose targets are items, and a read-out of every layer."""

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__(spec, items, dropout=dropout)
        tasks = len(spec.tasks)
        self.item_bias = nn.Embedding(items + spec.fallback_rows, tasks)
        self.heads = nn.Parameter(torch.zeros(spec.layers, spec.width, tasks))
        self.match = nn.Parameter(torch.zeros(spec.layers, spec.width, tasks))
        self.lean = nn.Parameter(torch.zeros(spec.layers, spec.width, tasks))

    @abstractmethod
    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        """Logits of candidates from what a request reads.

        candidates int64 (B, C); timestamp int64 (B,); at most `spec.reads` events of history,
        those later than the timestamp unseen. Returns (B, C, tasks).
        """

    def _read_out(self, depth: int, start: Tensor, found: Tensor, outputs: Tensor) -> Tensor:
        """One layer's share of the logits: its output, what it found, and how the item matches."""
        matched = (start * found) @ self.match[depth]
        return outputs @ self.heads[depth] + found @ self.lean[depth] + matched


class RankingModel(Scorer):
    """A scorer of whole timelines.

    `forward_full` computes whole timelines at once; `forward_cached` computes candidates from
    what a request reads, as `rank.onnx` does. They are the same function.
    """

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__(spec, items, dropout=dropout)
        # Which items a search by category takes for alike; scores hang on it, so weights hold it.
        self.categories: Tensor
        if spec.finds_first:
            rows = items + spec.fallback_rows
            self.register_buffer("categories", torch.full((rows,), NO_CATEGORY))

    @abstractmethod
    def forward_targets(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        """Logits of targets, each predicted from the events of its own timeline before it.

        items, timestamps int64 (B, T); feedback int8 (B, T, tasks); targets int64 (B, M): item
        rows; `visible` int64 (B, M): a target sees the events before this position that the family
        lets it see, as of the time `asked_at` (B, M), and no other target. Returns (B, M, tasks).
        """

    def forward_full(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        """Logits of every event of whole timelines: (B, T, tasks).

        As `forward_targets`; the event at position i sees what is before visible[i] <= i.
        """
        return self.forward_targets(items, timestamps, feedback, items, visible, asked_at)

    @abstractmethod
    def answer(
        self, candidates: Tensor, gaps_s: Tensor, masked: Tensor, history: History
    ) -> Tensor:
        """Logits of candidates (B, C) over history of R events: (B, C, tasks).

        gaps_s int64 seconds and masked bool, both (B, C or 1, R): since each event, and whether a
        candidate must not attend to it.
        """

    def encode(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        needed: Tensor | None = None,
    ) -> Tensor:
        """Records of a whole timeline: (B, T, hidden depths, width)."""
        return self.expectation.new_zeros(*items.shape, 0, self.spec.width)

    def forward_found(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        """`forward_targets` by search."""
        position = torch.arange(items.shape[1], device=items.device)
        gaps_s = asked_at[:, :, None] - timestamps[:, None, :]  # (B, M, T)
        none = self.expectation.new_zeros(*items.shape, 0, self.spec.width)
        history = History(items, timestamps, feedback, none)
        masked = self._missed(targets, history, position < visible[:, :, None])
        records = self.encode(items, timestamps, feedback, ~masked.all(dim=1))
        return self.answer(targets, gaps_s, masked, history._replace(records=records))

    def _missed(self, candidates: Tensor, history: History, seen: Tensor) -> Tensor:
        """True where a candidate does not attend to an event of those seen: (B, C, R).

        What does not count as history is never found.
        """
        spec, items = self.spec, history.items
        if spec.search:
            seen = newest(seen, spec.history)
        seen = ~self._hidden(~seen, history.feedback)
        if spec.finds_first:
            seen = seen.expand(-1, candidates.shape[1], -1)
            wanted, known = self.categories[candidates], self.categories[items]
            seen = found_by_category(wanted, known, seen, spec.search)
        return ~seen

    def _found(
        self, depth: int, targets: Tensor, records: Tensor, fed: tuple[Tensor, Tensor], bias: Tensor
    ) -> Tensor:
        """What the candidates find at this depth; `fed` are the history's priors and feedback."""
        layer = self.layers[depth]
        keys, values = layer.project(records, *fed)
        if self.spec.search and not self.spec.finds_first:
            bias = cast("TargetAttention", layer).cut(targets, keys, bias, self.spec.search)
        return layer.attend(targets, keys, values, bias)

    def forward_train(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`forward_targets`, and a loss that is learned beside."""
        logits = self.forward_targets(items, timestamps, feedback, targets, visible, asked_at)
        return logits, logits.new_zeros(())

    def forward_after(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        candidates: Tensor,
        timestamp: int,
    ) -> Tensor:
        """Logits (C, tasks) of candidates (C,) after one whole timeline: (n,), (n,), (n, tasks)."""
        found = [
            self.forward_targets(
                items[None],
                timestamps[None],
                feedback[None],
                part[None],
                torch.full_like(part, len(items))[None],
                torch.full_like(part, timestamp)[None],
            )[0]
            for part in candidates.split(MOST_AT_ONCE)
        ]
        return torch.cat(found)

    def begin(self, n_factors: int, generator: torch.Generator) -> None:
        """Sets what only some families have, where training starts; the rest is set already."""
