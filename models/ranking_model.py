"""RankingModel: what the families share, as training and the trusted path run it in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.reader import History, Reader
from models.spec import Spec

__all__ = ["History", "RankingModel", "Scorer"]


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

    `forward_full` computes a whole timeline at once; `forward_cached` computes candidates from
    what a request reads, as `rank.onnx` does. They are the same function.
    """

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
