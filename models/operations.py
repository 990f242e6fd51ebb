"""What a request costs in multiply-adds: once for its user, and again for every candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from models.family import UNIT_WIDTH
from models.spec import Spec


class Operations(NamedTuple):
    """At a full window; look-ups, norms and sums are left out."""

    per_request: int
    per_candidate: int


def operations(spec: Spec) -> Operations:
    """Of one request to a model of this shape."""
    return _retrieval(spec) if spec.stage == "retrieval" else COUNTS[spec.family](spec)


def _retrieval(spec: Spec) -> Operations:
    # One target for the user; a candidate is any item of the table.
    history, target = _marm(spec)
    return Operations(history + target + 2 * spec.depth * spec.width * (spec.width + 1), spec.width)


def _marm(spec: Spec) -> Operations:
    if not spec.search:
        return Operations(spec.layers * spec.window * _token(spec), spec.layers * _target(spec))
    # Of what a search by category finds, once for each category asked for; or of everything.
    target = _target(spec, spec.attends if spec.finds_first else spec.search)
    looks = 0 if spec.finds_first else spec.history * spec.width
    return Operations(spec.depth * spec.attends * _token(spec), spec.depth * (target + looks))


def _full(spec: Spec) -> Operations:
    # Every event that is read is once a target, and is scored against all of them.
    event = _token(spec) + _target(spec, spec.reads)
    history, candidate = _marm(spec)
    return Operations(history + spec.hidden_depths * spec.reads * event, candidate)


def _stca(spec: Spec) -> Operations:
    history, candidate = _marm(spec)
    gates = spec.depth * 2 * spec.width**2
    fusions = spec.depth * (spec.depth + 1) // 2 * spec.width**2
    return Operations(history, candidate + gates + fusions)


def _summarised(spec: Spec) -> Operations:
    # Tokens are keys and values of every layer, and asked as events are.
    request, candidate = _stca(spec)
    tokens = spec.depth * spec.summary
    return Operations(request + tokens * 2 * spec.width**2, candidate + tokens * 2 * spec.width)


def summing(spec: Spec) -> int:
    """What an event adds to a summary, in multiply-adds; 0 where there is none."""
    if not spec.summary:
        return 0
    tasks, rows = len(spec.tasks), spec.summary_rows
    intake = (4 + tasks) * spec.width**2 + 2 * tasks * spec.width
    features = spec.width * (1 if spec.family == "vista" else rows)
    return intake + features + rows * (spec.width + 1)


def _din(spec: Spec) -> Operations:
    unit = UNIT_WIDTH * (spec.width + spec.heads)
    event = _token(spec) + 2 * UNIT_WIDTH * spec.width
    candidate = 6 * spec.width**2 + UNIT_WIDTH * spec.width + spec.window * (unit + spec.width)
    return Operations(spec.window * event, candidate)


def _token(spec: Spec) -> int:
    """Key and value of one event in one layer."""
    tasks = len(spec.tasks)
    return (2 + tasks) * spec.width**2 + 2 * tasks * spec.width


def _target(spec: Spec, events: int | None = None) -> int:
    """One target in one layer: query, out, a feed-forward block of twice the width; attention."""
    seen = spec.window if events is None else events
    return 6 * spec.width**2 + 2 * (seen + 1) * spec.width


COUNTS: Mapping[str, Callable[[Spec], Operations]] = {
    "marm": _marm,
    "full": _full,
    "stca": _stca,
    "din": _din,
    "sim": _marm,
    "vista": _summarised,
    "elastic": _summarised,
}
