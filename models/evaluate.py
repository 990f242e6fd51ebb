"""Evaluation as the service is used: one request per user at the split, ranked by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.events import UNKNOWN, EventTable
from models.marm import Marm
from models.metrics import auc, gauc
from models.sequences import Piece, padded

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Every held-out event: its row in the table, and its user."""

    rows: Array  # (targets,) int64
    users: Array  # (targets,) int64

    @classmethod
    def of(cls, table: EventTable, holdout: float) -> HeldOut:
        rows = np.flatnonzero(table.is_held_out(holdout))
        return cls(rows, table.users[rows])


def score_held_out(model: Marm, table: EventTable, holdout: float) -> Array:
    """Probabilities of the held-out events, (targets, tasks), each user's in one request.

    History is everything before the split by position; the request's time is that of the
    first held-out event. No cache, no ONNX.
    """
    starts = table.holdout_start(holdout)
    scores = []
    for user in np.flatnonzero(starts < table.counts):
        split = int(table.offsets[user] + starts[user])
        first = max(int(table.offsets[user]), split - model.spec.receptive_field)
        piece = Piece(int(user), first, int(table.offsets[user + 1]), split)
        batch = padded(table, [piece])
        before = split - first
        visible = torch.arange(len(piece))[None].clamp(max=before)
        timestamps = torch.from_numpy(batch.timestamps)
        with torch.no_grad():
            logits = model.forward_full(
                torch.from_numpy(batch.items),
                timestamps,
                torch.from_numpy(batch.feedback),
                visible,
                timestamps.gather(1, visible),
            )
        scores.append(torch.sigmoid(logits[0, before:]).numpy())
    return np.concatenate(scores) if scores else np.zeros((0, len(table.tasks)), np.float32)


def measure(table: EventTable, held_out: HeldOut, scores: Array) -> dict[str, dict[str, float]]:
    """AUC (pooled) and GAUC (by user, weighted by candidates) per task over known labels."""
    found = {}
    for task, name in enumerate(table.tasks):
        labels = table.labels[held_out.rows, task]
        known = labels != UNKNOWN
        found[name] = {
            "auc": auc(scores[known, task], labels[known]),
            "gauc": gauc(scores[known, task], labels[known], held_out.users[known]),
            "targets": int(known.sum()),
        }
    return found
