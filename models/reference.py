"""The slow, trusted path: PyTorch in float32 over the timeline itself. No cache, no ONNX.

Everything else is checked against this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from models.bundle import Bundle, BundleError, Vocabulary
from models.evaluate import Question
from models.events import EventTable
from models.families import MODELS
from models.ranking_model import RankingModel
from models.requests import Request

Array = np.ndarray[Any, Any]


def load_model(bundle: Bundle) -> RankingModel:
    """The bundle's weights as the PyTorch model; `BundleError` if its shape asks for others."""
    model = MODELS[bundle.spec.family](bundle.spec, len(bundle.vocabulary))
    file = bundle.file("weights.safetensors")
    weights = safetensors.torch.load_file(file)
    if wrong := differences(model.state_dict(), weights):
        raise BundleError(f"{file} does not fit this version of Marmot: {'; '.join(wrong)}")
    model.load_state_dict(weights)
    return model.eval()


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is missing, not known, or of another shape, each by its name."""
    missing = [f"{name} is missing" for name in wanted if name not in found]
    unknown = [f"{name} is not known" for name in sorted(found) if name not in wanted]
    other = [
        f"{name} is {_shape(found[name])}, not {_shape(weight)}"
        for name, weight in wanted.items()
        if name in found and _shape(found[name]) != _shape(weight)
    ]
    return missing + unknown + other


def _shape(weight: Tensor) -> str:
    return f"{str(weight.dtype).removeprefix('torch.')} {tuple(weight.shape)}"


@torch.no_grad()
def score(
    model: RankingModel,
    items: Array,
    timestamps: Array,
    feedback: Array,
    candidates: Array,
    timestamp: int,
) -> Array:
    """Probabilities of candidates after a whole timeline: (candidates, tasks).

    items, timestamps (events,) int64 in time order, none later than `timestamp`; feedback
    (events, tasks) int8; candidates (C,) int64. Events beyond the receptive field cannot move a
    score and are left out.
    """
    field = model.spec.receptive_field
    items, timestamps, feedback = items[-field:], timestamps[-field:], feedback[-field:]
    logits = model.forward_after(
        torch.from_numpy(items),
        torch.from_numpy(timestamps),
        torch.from_numpy(feedback),
        torch.from_numpy(candidates),
        timestamp,
    )
    return torch.sigmoid(logits).numpy()


class Reference:
    """Scores from a table of events, the trusted way."""

    def __init__(
        self, model: RankingModel, table: EventTable, vocabulary: list[str] | Vocabulary
    ) -> None:
        if not isinstance(vocabulary, Vocabulary):
            nameless = [None] * len(vocabulary)
            vocabulary = Vocabulary(vocabulary, [*nameless], model.spec.fallback_rows)
        self.model = model.eval()
        self.table = table
        self.vocabulary = vocabulary
        self._rows = vocabulary.rows(table.item_ids)[table.items]  # (events,)
        self._users = {user_id: index for index, user_id in enumerate(table.user_ids)}

    @classmethod
    def of(cls, bundle: Bundle, table: EventTable) -> Self:
        return cls(load_model(bundle), table, bundle.vocabulary)

    def score(self, request: Request) -> Array:
        """(candidates, tasks), from every event of the user up to the request's time."""
        user = self._users.get(str(request.user_id))
        span = slice(0, 0) if user is None else self.table.user(user)
        candidates = self.vocabulary.rows([str(item) for item in request.candidates])
        known = int(np.searchsorted(self.table.timestamps[span], request.timestamp, "right"))
        return self._score(slice(span.start, span.start + known), candidates, request.timestamp)

    def score_question(self, question: Question) -> Array:
        """(candidates, tasks) of an evaluation's request."""
        rows = self._rows[question.targets]
        if question.candidates is not None:
            rows = self.vocabulary.rows(question.candidates)
        return self._score(question.history, rows, question.timestamp)

    def _score(self, history: slice, candidates: Array, timestamp: int) -> Array:
        return score(
            self.model,
            self._rows[history],
            self.table.timestamps[history],
            self.table.labels[history],
            candidates,
            timestamp,
        )


@contextmanager
def evaluator(bundle: Bundle, table: EventTable, holdout: float, url: str | None) -> Iterator[Any]:
    """`marmot evaluate --via full`."""
    yield Reference.of(bundle, table).score_question
