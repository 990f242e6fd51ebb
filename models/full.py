"""Full: masked self-attention of the whole history, computed again for every request.

It is `Marm` without the cache: the same weights, the same function, and the price of forgetting.
"""

from __future__ import annotations

from torch import Tensor

from models.marm import Marm
from models.ranking_model import History


class Full(Marm):
    """What `Marm` caches, made from every layer's window of events and used once."""

    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        items, timestamps, feedback = history[:3]
        whole = (items, timestamps, feedback, self.encode(items, timestamps, feedback))
        newest = History(*(part[:, -self.spec.window :] for part in whole))
        return super().forward_cached(candidates, timestamp, newest)
