"""RawHistory: layers that all attend to the events themselves, so that there is nothing to cache.

A window of events is the whole receptive field, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention import normalised
from models.ranking_model import History, RankingModel


class RawHistory(RankingModel):
    """Both ways to compute; a family says what asks, and with which bias."""

    def forward_targets(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        if self.spec.search:
            return self.forward_found(items, timestamps, feedback, targets, visible, asked_at)
        position = torch.arange(items.shape[1], device=items.device)
        ends = visible[:, :, None]
        gaps = asked_at[:, :, None] - timestamps[:, None, :]  # (B, M, T)
        masked = self._hidden(self._unseen(ends, position), feedback)
        biases = self._seen(gaps, masked, ends - 1 - position)
        return self._logits(targets, items, feedback, biases)

    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        gaps = timestamp[:, None, None] - history.timestamps[:, None, :]  # (B, 1, R)
        masked = self._missed(candidates, history, gaps >= 0)
        return self.answer(candidates, gaps, masked, history)

    def answer(
        self, candidates: Tensor, gaps_s: Tensor, masked: Tensor, history: History
    ) -> Tensor:
        R = history.items.shape[1]
        ages = torch.arange(R - 1, -1, -1, device=candidates.device).expand_as(gaps_s)
        biases = self._seen(gaps_s, masked, ages)
        return self._logits(candidates, history.items, history.feedback, biases)

    def _seen(self, gaps_s: Tensor, masked: Tensor, ages: Tensor) -> Sequence[Tensor]:
        """Per layer the bias of each target with each event, `ages` events before its newest."""
        return self._biases(gaps_s, masked)

    def _fused(self, depth: int, start: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """What asks at this depth, from the raw target and what the layers below made of it."""
        return start

    def _logits(
        self, targets: Tensor, items: Tensor, feedback: Tensor, biases: Sequence[Tensor]
    ) -> Tensor:
        """Of targets (B, C) over history (B, R): (B, C, tasks)."""
        start, known, prior = self.embedding(targets), self.embedding(items), self._prior(items)
        unit = normalised(known)  # as records are, in the layers above the first
        logits: Tensor = self.item_bias(targets)
        outputs = [normalised(start)]
        for depth, layer in enumerate(self.layers):
            stream = self._fused(depth, start, outputs)
            tokens = unit if depth else known
            found = self._found(depth, normalised(stream), tokens, (prior, feedback), biases[depth])
            outputs.append(normalised(layer.mix(stream, found)))
            logits = logits + self._read_out(depth, start, found, outputs[-1])
        return logits
