"""What a time gap adds to an attention score, looked up per pair and head; cheap to learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gap_bias(table: Tensor, buckets: Tensor) -> Tensor:
    """`table[buckets]`, heads first: table (rows, heads), buckets int64 (B, N, M) to
    (B, heads, N, M).

    Pairs are many and rows are few. The framework's own look-up puts heads last, so that every
    use of it walks in strides, and its gradient adds pair by pair: a fifth of a training step more
    (docs/log.md).
    """
    found: Tensor = _GapBias.apply(table, buckets)  # type: ignore[no-untyped-call]
    return found


class _GapBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, buckets: Tensor) -> Tensor:
        ctx.save_for_backward(buckets)
        ctx.rows, heads = table.shape
        by_head = table.T.contiguous().index_select(1, buckets.reshape(buckets.numel()))
        return by_head.view(heads, *buckets.shape).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (buckets,) = ctx.saved_tensors
        where = buckets.reshape(buckets.numel())
        sums = [
            torch.bincount(where, by_head.reshape(where.shape), minlength=ctx.rows)
            for by_head in grads[0].unbind(1)
        ]
        return torch.stack(sums, dim=1).to(grads[0].dtype), None
