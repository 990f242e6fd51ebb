"""Layer: targets ask a user's history and nothing else; TargetAttention: they ask by softmax."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.search import found_by_score
from models.spec import TIME_GAP_EDGES_S

#: Added to the score of a history event that a target must not see; its weight is exactly zero.
MASKED = -1e4


class Layer(nn.Module, ABC):
    """Targets over history, then a feed-forward block, both residual.

    A history token is a record (or an item's embedding) and its feedback: per task the residual,
    which is the label minus what was expected of the item, as a number and as a scale of the
    record, and a learned vector for each of the three states unknown, 0 and 1. What was expected
    is the item's prior moved by what the record says of this user; so each layer hears only what
    the ones below did not foresee.
    """

    def __init__(
        self, width: int, heads: int, tasks: int, *, time_gap: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width * (1 + tasks) + tasks, width, bias=False)
        self.foresight = nn.Parameter(torch.zeros(width, tasks))
        self.feedback_key = nn.Parameter(torch.zeros(tasks, 3, width))
        self.feedback_value = nn.Parameter(torch.zeros(tasks, 3, width))
        # Row 0 is the future, which `MASKED` hides whatever is learned here.
        self.gap_bias = nn.Parameter(torch.zeros(len(TIME_GAP_EDGES_S) + 1, heads))
        self.gap_bias.requires_grad_(time_gap)
        self.out = nn.Linear(width, width, bias=False)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    @property
    def additions(self) -> tuple[nn.Linear, ...]:
        """What adds to the stream."""
        return self.out, self.contract

    @abstractmethod
    def attend(self, targets: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """What each target finds in history: (B, C, width), heads side by side.

        targets (B, C, width), normalised; keys, values (B, R, width);
        bias (B, heads or 1, C or 1, 1 + R) is added to the scores, the null key's first.
        """

    @abstractmethod
    def weigh_evenly(self, null_events: float) -> None:
        """Sets out from where every event weighs the same, and nothing as `null_events` of them."""

    def project(self, records: Tensor, prior: Tensor, feedback: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of history tokens, two tensors of (..., R, width).

        records (..., R, width); prior logits (..., R, tasks); feedback int8 (..., R, tasks).
        """
        expected = torch.sigmoid(prior + records @ self.foresight)
        residual = torch.where(feedback < 0, 0.0, feedback - expected)
        states = torch.arange(-1, 2, device=feedback.device, dtype=feedback.dtype)
        state = (feedback[..., None] == states).to(records.dtype)  # (..., R, tasks, 3)
        scaled = [records, *(records * r for r in residual.split(1, dim=-1)), residual]
        keys = self.key(records) + torch.einsum("...ts,tsw->...w", state, self.feedback_key)
        values = self.value(torch.cat(scaled, dim=-1))
        values = values + torch.einsum("...ts,tsw->...w", state, self.feedback_value)
        return keys, values

    def mix(self, stream: Tensor, found: Tensor) -> Tensor:
        """The layer's output: the stream, what it found, and a feed-forward block on both."""
        hidden = stream + self.dropout(self.out(found))
        output: Tensor = hidden + self.contract(self.dropout(self.inner(normalised(hidden))))
        return output

    def inner(self, x: Tensor) -> Tensor:
        """The middle of the feed-forward block: (..., width) to (..., 2 width)."""
        return torch.relu(self.expand(x))

    def by_head(self, x: Tensor) -> Tensor:
        """(B, N, width) as (B, heads, N, width / heads)."""
        B, N, width = x.shape
        return x.reshape(B, N, self.heads, width // self.heads).transpose(1, 2)


class TargetAttention(Layer):
    """Multi-head attention. A learned null key stands before the history, so that a target with
    an empty history attends to something defined.
    """

    def __init__(
        self, width: int, heads: int, tasks: int, *, time_gap: bool, dropout: float = 0.0
    ) -> None:
        super().__init__(width, heads, tasks, time_gap=time_gap, dropout=dropout)
        self.null_key = nn.Parameter(torch.zeros(width))
        self.null_value = nn.Parameter(torch.zeros(width))

    def attend(self, targets: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        B, C, width = targets.shape
        null_key = self.null_key.expand(B, 1, width)
        null_value = self.null_value.expand(B, 1, width)
        q = self.by_head(self.query(targets) / math.sqrt(width // self.heads))
        k = self.by_head(torch.cat([null_key, keys], dim=1))
        v = self.by_head(torch.cat([null_value, values], dim=1))
        weights = torch.softmax(q @ k.transpose(2, 3) + bias, dim=-1)  # (B, heads, C, 1 + R)
        return (weights @ v).transpose(1, 2).reshape(B, C, width)

    @torch.no_grad()
    def cut(self, targets: Tensor, keys: Tensor, bias: Tensor, most: int) -> Tensor:
        """A bias under which each target attends to the `most` events of the highest scores only.

        The score is the sum of the heads' own, so that what is found is what would weigh.
        """
        query = self.query(targets) / math.sqrt(targets.shape[-1] // self.heads)
        scores = query @ keys.transpose(1, 2) + bias[..., 1:].sum(dim=1)
        seen = (bias[..., 1:] > MASKED).any(dim=1).expand(scores.shape)
        found = found_by_score(scores, seen, most)
        return bias + nn.functional.pad(torch.where(found, 0.0, MASKED), (1, 0))[:, None]

    def weigh_evenly(self, null_events: float) -> None:
        even = math.sqrt(math.log(null_events) / math.sqrt(len(self.null_key) // self.heads))
        self.key.weight.mul_(0.1)
        self.query.weight.mul_(0.1)
        self.query.bias.fill_(even)
        self.null_key.fill_(even)


def normalised(x: Tensor) -> Tensor:
    """RMSNorm without weights: what follows is always linear and carries them."""
    return nn.functional.rms_norm(x, (x.shape[-1],), eps=1e-6)


def gap_buckets(gap_s: Tensor, edges_s: Tensor) -> Tensor:
    """Bucket of each time gap: how many edges lie at or below it; 0 is the future. int64."""
    return torch.bucketize(gap_s, edges_s, right=True)
