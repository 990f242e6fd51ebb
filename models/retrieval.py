"""Retrieval: a user as one vector, to be multiplied with a table of items.

A learned query climbs the ranking model's cached records layer by layer, as a candidate does, and
what every layer finds adds to the user's vector. It knows no candidate, so the items' vectors can
wait in a table (MARM, arXiv 2411.09425, section on retrieval; the query there is the user's id,
here it is everybody's, and with `--user-embedding` a vector of the user's own is added to it and,
as the query lives among the items' vectors, to what comes out).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.attention import normalised
from models.known_users import HASHES, KnownUsers
from models.reader import History, Reader
from models.spec import Spec


class Retrieval(Reader):
    """The query, its layers, and the table of items. Reads records and writes none.

    `users` are those whom it can have a vector of, where its spec says that it has any.
    """

    def __init__(self, spec: Spec, items: int, *, users: int = 0, dropout: float = 0.0) -> None:
        super().__init__(spec, items, dropout=dropout)
        depth, width = spec.depth, spec.width
        self.query = nn.Parameter(torch.zeros(width))
        if spec.user_embedding:
            # A user's row is that of `KnownUsers` less one.
            self.user_table = nn.Parameter(torch.zeros(users, width))
            self.user_hashes: Tensor
            self.register_buffer(HASHES, torch.zeros(users, dtype=torch.int64))
        # The last column is no part of the vector: it is the user's lean towards everything.
        self.prior = nn.Parameter(torch.zeros(width + 1))
        self.from_found = nn.Parameter(torch.zeros(depth, width, width + 1))
        self.from_output = nn.Parameter(torch.zeros(depth, width, width + 1))
        # An item's vector and its bias.
        self.table = nn.Parameter(torch.zeros(items, width + 1))

    @property
    def known_users(self) -> KnownUsers:
        """Those whom it has a vector of."""
        if not self.spec.user_embedding:
            return KnownUsers.of(())
        return KnownUsers(self.user_hashes.numpy().view(np.uint64))

    def user(self, timestamp: Tensor, history: History, rows: Tensor | None = None) -> Tensor:
        """A user's vector and lean: (B, width + 1); without history the learned prior.

        timestamp int64 (B,); history's records are the ranking model's; rows int64 (B,) are those
        of `KnownUsers`, 0 nobody's, as everybody's is where there are none.
        """
        B = len(timestamp)
        gaps = timestamp[:, None, None] - history.timestamps[:, None, :]  # (B, 1, R)
        biases = self._biases(gaps, self._hidden(gaps < 0, history.feedback))
        prior, feedback = self._prior(history.items), history.feedback
        known = self.embedding(history.items)
        stream, user = self.query.expand(B, 1, -1), self.prior.expand(B, 1, -1)
        if rows is not None and self.spec.user_embedding:
            own = nn.functional.pad(self.user_table, (0, 0, 1, 0))[rows][:, None]
            stream, user = stream + own, user + nn.functional.pad(own, (0, 1))
        outputs = normalised(stream)
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
