"""Retrieval: a user as one vector, to be multiplied with a table of items.

A learned query climbs the ranking model's cached records layer by layer, as a candidate does, and
what every layer finds adds to the user's vector. It knows no candidate, so the items' vectors can
wait in a table (MARM, arXiv 2411.09425, section on retrieval; the query there is the user's id).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attention import normalised
from models.reader import History, Reader
from models.spec import Spec


class Retrieval(Reader):
    """The query, its layers, and the table of items. Reads records and writes none."""

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__(spec, items, dropout=dropout)
        depth, width = spec.depth, spec.width
        self.query = nn.Parameter(torch.zeros(width))
        # The last column is no part of the vector: it is the user's lean towards everything.
        self.prior = nn.Parameter(torch.zeros(width + 1))
        self.from_found = nn.Parameter(torch.zeros(depth, width, width + 1))
        self.from_output = nn.Parameter(torch.zeros(depth, width, width + 1))
        # An item's vector and its bias.
        self.table = nn.Parameter(torch.zeros(items, width + 1))

    def user(self, timestamp: Tensor, history: History) -> Tensor:
        """A user's vector and lean: (B, width + 1); without history the learned prior.

        timestamp int64 (B,); history's records are the ranking model's.
        """
        B = len(timestamp)
        gaps = timestamp[:, None, None] - history.timestamps[:, None, :]  # (B, 1, R)
        biases = self._biases(gaps, self._hidden(gaps < 0, history.feedback))
        prior, feedback = self._prior(history.items), history.feedback
        known = self.embedding(history.items)
        stream = self.query.expand(B, 1, -1)
        outputs = normalised(stream)
        user = self.prior.expand(B, 1, -1)
        for depth, layer in enumerate(self.layers):
            found = layer.attend(outputs, *layer.project(known, prior, feedback), biases[depth])
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            user = user + found @ self.from_found[depth] + outputs @ self.from_output[depth]
            if depth < self.spec.hidden_depths:
                known = history.records[:, :, depth]
        return user[:, 0]

    def logits(self, user: Tensor, table: Tensor) -> Tensor:
        """Of users (B, width + 1) for items (N, width + 1): (B, N)."""
        ones = torch.ones_like(user[:, :1])
        return torch.cat([user[:, :-1], ones], dim=1) @ table.T + user[:, -1:]
