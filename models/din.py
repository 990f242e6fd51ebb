"""Din: one layer in which an activation unit weighs every event by itself (Deep Interest Network).

The weights are no softmax's: they need not sum to one, so that many events of a kind weigh more
than one of them. arXiv 1706.06978.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attention import MASKED, Layer
from models.family import UNIT_WIDTH
from models.raw_history import RawHistory


class ActivationUnit(Layer):
    """A small network on (q, k, q - k, q * k) gives the weight of an event, one per head.

    q - k needs no weights of its own: what is linear in it is linear in q and in k. Weights come
    divided by the window's length, a constant, so that they are of the size of one. There is
    no null key: nothing adds up to nothing.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        tasks: int,
        *,
        window: int,
        time_gap: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(width, heads, tasks, time_gap=time_gap, dropout=dropout)
        self.window = window
        self.of_target = nn.Linear(width, UNIT_WIDTH)
        self.of_event = nn.Linear(width, UNIT_WIDTH, bias=False)
        self.of_both = nn.Linear(width, UNIT_WIDTH, bias=False)
        self.weigh = nn.Linear(UNIT_WIDTH, heads)

    def attend(self, targets: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        B, C, width = targets.shape
        q, R = self.query(targets), keys.shape[1]
        # (q * k) by the weights of all hidden numbers at once: one product of q with scaled keys.
        scaled = (keys[:, :, None] * self.of_both.weight).reshape(B, R * UNIT_WIDTH, width)
        both = (q @ scaled.transpose(1, 2)).reshape(B, C, R, UNIT_WIDTH)
        hidden = both + self.of_target(q)[:, :, None] + self.of_event(keys)[:, None]
        bias = bias[..., 1:]
        weights = self.weigh(torch.relu(hidden)).permute(0, 3, 1, 2) + bias  # (B, heads, C, R)
        weights = weights.masked_fill(bias <= MASKED / 2, 0.0) / self.window
        found: Tensor = weights @ self.by_head(values)
        return found.transpose(1, 2).reshape(B, C, width)

    def weigh_evenly(self, null_events: float) -> None:
        # What an event of a full window gets beside the null events.
        self.weigh.weight.mul_(0.1)
        self.weigh.bias.fill_(self.window / (null_events + self.window))


class Din(RawHistory):
    """The family that most rankers start from: one layer, nothing cached."""

    def _layer(self, depth: int, dropout: float) -> Layer:
        spec = self.spec
        return ActivationUnit(
            spec.width,
            spec.heads,
            len(spec.tasks),
            window=spec.window,
            time_gap=spec.time_gap,
            dropout=dropout,
        )
