"""What fewer bits in the cache cost: bytes of a record against the quality of the answers.

Records are made once in float32 and rounded in each form; candidates are scored against them as
`rank.onnx` scores them (export proves that they are the same). The forms of a bundle are rounded
exactly as its graphs do; those of 4 bits are for comparison, and no bundle has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from models.bundle import Bundle
from models.evaluate import Question, measure, questions
from models.events import EventTable
from models.marm import Marm
from models.ranking_model import History
from models.reference import load_model

Array = np.ndarray[Any, Any]
#: Called with how many forms are measured, and of how many.
Advance = Callable[[int, int], None]


class Form(NamedTuple):
    """A way to keep vectors: bits of a number, and bytes beside each vector of a width."""

    round: Callable[[Array], Array]
    bits: int
    scales: Callable[[int], int] = lambda _width: 0


class NotCached(ValueError):
    """A bundle without records."""


def _integers(records: Array, most: int) -> Array:
    """With one float16 scale for each vector (the last axis)."""
    largest = np.abs(records).max(axis=-1, keepdims=True)
    scale = np.maximum(largest / most, 1e-4).astype(np.float16).astype(np.float32)
    return np.asarray(np.clip(np.round(records / scale), -most, most) * scale)


def _in_groups(records: Array) -> Array:
    """Sixteen numbers, or what is left of the width, share a scale."""
    groups = [
        _integers(records[..., first : first + 16], 7) for first in range(0, records.shape[-1], 16)
    ]
    return np.concatenate(groups, axis=-1)


def _rotated(records: Array) -> Array:
    """Turned by random signs and a random rotation first, so that no number is the largest."""
    width = records.shape[-1]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))
    turn = rotation.astype(np.float32)
    return np.asarray(_integers(records @ turn, 7) @ turn.T)


FORMS = {
    "float32": Form(lambda records: records, 32),
    "float16": Form(lambda records: records.astype(np.float16).astype(np.float32), 16),
    "int8": Form(lambda records: _integers(records, 127), 8, lambda _: 2),
    "int4": Form(lambda records: _integers(records, 7), 4, lambda _: 2),
    "int4, rotated": Form(_rotated, 4, lambda _: 2),
    "int4, a scale for 16": Form(_in_groups, 4, lambda width: 2 * -(-width // 16)),
}


def compare_forms(
    bundle: Bundle,
    table: EventTable,
    holdout: float,
    advance: Advance = lambda done, of: None,
) -> list[dict[str, Any]]:
    """A row for each form: bytes per user, GAUC and AUC, and how far a probability moved."""
    spec, model = bundle.spec, load_model(bundle)
    if not isinstance(model, Marm) or not spec.cached_depths:
        raise NotCached(f"{bundle.path}: a bundle of this shape keeps no records")
    rows = bundle.vocabulary.rows(table.item_ids)[table.items]
    pasts = {asked.user: _past(model, table, rows, asked) for asked in questions(table, holdout)}
    exact: dict[int, Array] = {}
    found = []
    for done, (name, form) in enumerate(FORMS.items()):
        advance(done, len(FORMS))
        moved = [0.0]

        def score(asked: Question, form: Form = form, moved: list[float] = moved) -> Array:
            scores = _scored(model, pasts[asked.user], form, rows[asked.targets], asked.timestamp)
            difference = scores - exact.setdefault(asked.user, scores)
            moved.append(float(np.abs(difference).max()))
            return scores

        figures = measure(table, holdout, score)[spec.tasks[0]]
        per_vector = -(-form.bits * spec.width // 8) + form.scales(spec.width)
        per_event = per_vector * spec.cached_depths
        found.append(
            {
                "form": name,
                "bytes per event": per_event,
                "bytes per user": per_event * spec.reach,
                "gauc": figures["gauc"],
                "auc": figures["auc"],
                "largest move": round(max(moved), 6),
            }
        )
    advance(len(FORMS), len(FORMS))
    return found


@torch.no_grad()
def _past(model: Marm, table: EventTable, rows: Array, asked: Question) -> History:
    """The newest window of a history, with its records."""
    field, window = model.spec.receptive_field, model.spec.window
    span = slice(max(asked.history.start, asked.history.stop - field), asked.history.stop)
    parts = [torch.from_numpy(part[span])[None] for part in (rows, table.timestamps, table.labels)]
    return History(*(part[:, -window:] for part in (*parts, model.encode(*parts))))


@torch.no_grad()
def _scored(model: Marm, past: History, form: Form, candidates: Array, timestamp: int) -> Array:
    records = torch.from_numpy(form.round(past.records.numpy()).astype(np.float32))
    logits = model.forward_cached(
        torch.from_numpy(candidates)[None],
        torch.tensor([timestamp]),
        past._replace(records=records),
    )
    return torch.sigmoid(logits[0]).numpy()


def markdown(rows: list[dict[str, Any]]) -> str:
    """As a table."""
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = (f"{v:,}" if isinstance(v, int) else str(v) for v in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
