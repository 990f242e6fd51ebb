"""TargetAttention: one layer, in which targets attend to a user's history and to nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.spec import TIME_GAP_EDGES_S

#: Added to the score of a history event that a target must not see. Its weight is exactly zero.
MASKED = -1e9


class TargetAttention(nn.Module):
    """Multi-head attention of targets over history, then a feed-forward block, both residual.

    A history token is a record and its feedback: per task a residual (label minus what the item
    gets from anyone) that scales the record's value, and a learned vector for each of the three
    states unknown, 0 and 1. A learned null key stands before the history, so that a target with
    an empty history attends to something defined.
    """

    def __init__(
        self, width: int, heads: int, tasks: int, *, time_gap: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width * (1 + tasks), width, bias=False)
        self.feedback_key = nn.Parameter(torch.zeros(tasks, 3, width))
        self.feedback_value = nn.Parameter(torch.zeros(tasks, 3, width))
        self.null_key = nn.Parameter(torch.zeros(width))
        self.null_value = nn.Parameter(torch.zeros(width))
        self.gap_bias = nn.Parameter(torch.zeros(len(TIME_GAP_EDGES_S) + 1, heads))
        self.gap_bias.requires_grad_(time_gap)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_target = nn.RMSNorm(width)
        self.norm_hidden = nn.RMSNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def project(self, records: Tensor, residual: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of history tokens.

        records (..., R, width); residual (..., R, tasks); state (..., R, tasks, 3) one-hot.
        Returns two tensors of (..., R, width).
        """
        scaled = [records, *(records * r for r in residual.split(1, dim=-1))]
        keys = self.key(records) + torch.einsum("...ts,tsw->...w", state, self.feedback_key)
        values = self.value(torch.cat(scaled, dim=-1))
        values = values + torch.einsum("...ts,tsw->...w", state, self.feedback_value)
        return keys, values

    def forward(
        self, targets: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What targets found in history, and the layer's output.

        targets (B, C, width); keys, values (B, R, width); bias (B, heads or 1, C or 1, R).
        Returns (B, C, width) twice.
        """
        attended = self.attend(targets, keys, values, bias)
        return attended, self.feed_forward(targets + attended)

    def attend(self, targets: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        B, C, width = targets.shape
        head = width // self.heads
        null_key = self.null_key.expand(B, 1, width)
        null_value = self.null_value.expand(B, 1, width)

        def split(x: Tensor) -> Tensor:  # (B, N, width) -> (B, heads, N, head)
            return x.reshape(B, -1, self.heads, head).transpose(1, 2)

        q = split(self.query(self.norm_target(targets)))
        k = split(torch.cat([null_key, keys], dim=1))
        v = split(torch.cat([null_value, values], dim=1))
        scores = q @ k.transpose(2, 3) / math.sqrt(head)  # (B, heads, C, 1 + R)
        scores = scores + nn.functional.pad(bias, (1, 0))
        found = torch.softmax(scores, dim=-1) @ v
        return self.dropout(self.out(found.transpose(1, 2).reshape(B, C, width)))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        inner = torch.relu(self.expand(self.norm_hidden(hidden)))
        return hidden + self.contract(self.dropout(inner))


def gap_buckets(gap_s: Tensor, edges_s: Tensor) -> Tensor:
    """Bucket of each time gap: how many edges lie at or below it. int64 seconds in, int64 out."""
    return torch.bucketize(gap_s, edges_s, right=True)
