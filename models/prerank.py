"""Prerank: one layer of target attention over the newest of the deepest records.

What the ranking model's layers made of an event has seen all that they see, so one look at the
newest ones stands for many. The items' vectors and biases are the ranking model's own.
"""

from __future__ import annotations

from torch import Tensor

from models.attention import normalised
from models.ranking_model import Scorer
from models.reader import History


class Prerank(Scorer):
    """A short way to scores like the ranking model's. Reads its records and writes none."""

    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        gaps = timestamp[:, None, None] - history.timestamps[:, None, :]  # (B, 1, R)
        biases = self._biases(gaps, self._hidden(gaps < 0, history.feedback))
        prior = self._prior(history.items)
        start = self.embedding(candidates)
        logits: Tensor = self.item_bias(candidates)
        for depth, layer in enumerate(self.layers):
            memory = layer.project(self._known(history), prior, history.feedback)
            found = layer.attend(normalised(start), *memory, biases[depth])
            outputs = normalised(layer.mix(start, found))
            logits = logits + self._read_out(depth, start, found, outputs)
        return logits

    def _known(self, history: History) -> Tensor:
        records, hidden = history.records, self.spec.hidden_depths
        known: Tensor = records[:, :, -1] if hidden else self.embedding(history.items)
        return known
