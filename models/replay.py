"""Quality as it was online: logged answers joined with what came of them afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.answer_log import AnswerLogError, Answers, UserHash
from models.calibration import ece, psi, reliability
from models.events import UNKNOWN, EventTable
from models.metrics import auc, gauc

Array = np.ndarray[Any, Any]

DAY_S = 86_400


def outcomes(
    shown: Array, shown_at: Array, happened: Array, happened_at: Array, within_s: int
) -> Array:
    """Which event each shown candidate led to, -1 for none: (candidates,) int64.

    `shown` (candidates,) and `happened` (events,) number pairs of a user and an item, -1 what is
    nobody's. An event counts once, for the newest answer before it that held its item; an answer
    counts the first event after it, at most `within_s` later. What came in the same second as the
    answer was there already: a request sees all events up to its timestamp.
    """
    pairs = np.concatenate([shown, happened])
    times = np.concatenate([shown_at, happened_at])
    is_shown = np.arange(len(pairs)) < len(shown)
    order = np.lexsort((is_shown, times, pairs))
    here, then = order[:-1], order[1:]
    follows = is_shown[here] & ~is_shown[then] & (pairs[here] == pairs[then]) & (pairs[here] >= 0)
    follows &= times[then] - times[here] <= within_s
    found = np.full(len(shown), -1, np.int64)
    found[here[follows]] = then[follows] - len(shown)
    return found


@dataclass(frozen=True, slots=True)
class Joined:
    """Every logged candidate with its label of each task, UNKNOWN where no feedback came."""

    answers: Answers
    labels: dict[str, Array]  # by task: (candidates,) int8


def join(answers: Answers, table: EventTable, hashed: UserHash, within_s: int = DAY_S) -> Joined:
    """Gives each candidate the feedback that came after its answer, and within so many seconds.

    Raises `AnswerLogError` if log and events have no task or no user in common.
    """
    tasks = [task for task in table.tasks if task in answers.scores]
    if not tasks:
        raise AnswerLogError(
            f"the answers have scores of {', '.join(sorted(answers.scores)) or 'nothing'}, "
            f"the events labels of {', '.join(table.tasks)}: nothing in common"
        )
    known = {hashed(user_id): index for index, user_id in enumerate(table.user_ids)}
    users = np.array([known.get(user, -1) for user in answers.users], np.int64)
    if (users < 0).all():
        raise AnswerLogError(
            "no user of the answers is in the events: is this the key of that log?"
        )
    rows = {item_id: row for row, item_id in enumerate(table.item_ids)}
    items = np.array([rows.get(item_id, -1) for item_id in answers.item_ids], np.int64)
    whose, which = users[answers.asked], items[answers.items]
    size = max(len(table.item_ids), 1)
    shown = np.where((whose >= 0) & (which >= 0), whose * size + which, -1)
    shown_at = answers.timestamps[answers.asked]
    found = outcomes(shown, shown_at, table.users * size + table.items, table.timestamps, within_s)
    labels = {}
    for task in tasks:
        column = table.tasks.index(task)
        label = np.where(found >= 0, table.labels[found, column], UNKNOWN)
        said_after_s = table.feedback_timestamps[found, column] - shown_at
        in_time = (said_after_s > 0) & (said_after_s <= within_s)
        labels[task] = np.where(in_time, label, UNKNOWN).astype(np.int8)
    return Joined(answers, labels)


def report(joined: Joined, period_s: int = DAY_S) -> dict[str, Any]:
    """Figures by model version: AUC, GAUC by user, calibration, and drift from period to period.

    Periods of `period_s` count from the first answer; drift is the PSI of all scores of a period,
    with feedback or without, against the version's first.
    """
    answers = joined.answers
    versions = np.array(answers.versions)
    begin = int(answers.timestamps.min())
    period = (answers.timestamps - begin) // period_s  # (answers,)
    users = np.unique(np.array(answers.users), return_inverse=True)[1]
    found = {}
    for version in dict.fromkeys(answers.versions):
        is_ours = versions == version
        ours = is_ours[answers.asked]
        periods = np.unique(period[is_ours]).tolist()
        within = period[answers.asked]
        tasks = {}
        for task, labels in joined.labels.items():
            scores = answers.scores[task]
            has_scores = ours & ~np.isnan(scores)
            known = has_scores & (labels != UNKNOWN)
            first = scores[has_scores & (within == periods[0])]
            drift = [psi(first, scores[has_scores & (within == each)]) for each in periods]
            tasks[task] = {
                **_figures(scores[known], labels[known], users[answers.asked][known]),
                "psi": _rounded(drift[-1]),
                "drift": [_rounded(each) for each in drift],
            }
        found[version] = {
            "answers": int(is_ours.sum()),
            "candidates": int(ours.sum()),
            "periods": [begin + each * period_s for each in periods],
            "tasks": tasks,
        }
    return {"unreadable": answers.unreadable, "period_s": period_s, "models": found}


def _figures(scores: Array, labels: Array, users: Array) -> dict[str, Any]:
    bins = [
        {name: round(value, 6) for name, value in each.items()}
        for each in reliability(scores, labels)
    ]
    return {
        "auc": _rounded(auc(scores, labels)),
        "gauc": _rounded(gauc(scores, labels, users)),
        "ece": _rounded(ece(scores, labels)),
        "with_feedback": len(labels),
        "bins": bins,
    }


def _rounded(value: float) -> float | None:
    """JSON has no word for what is undefined."""
    return round(value, 6) if math.isfinite(value) else None
