"""The trusted path of a stage: PyTorch over the timeline, records made anew. No cache, no ONNX."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import safetensors.torch
import torch

from models.additions import Additions
from models.bundle import WEIGHTS, Bundle, BundleError
from models.events import EventTable
from models.known_users import HASHES
from models.marm import Marm
from models.prerank import Prerank
from models.reader import History
from models.reference import differences, load_model
from models.requests import Request
from models.retrieval import Retrieval
from models.stage_export import table_of

Array = np.ndarray[Any, Any]


def check_reads(stage: Bundle, ranker: Bundle) -> None:
    """Raises `BundleError` unless the stage reads this ranking model's records."""
    if stage.reads != ranker.fingerprint:
        raise BundleError(
            f"{stage.path} reads the records of {stage.reads}, but {ranker.path} is "
            f"{ranker.fingerprint}; `marmot train --stage {stage.spec.stage} --ranker "
            f"{ranker.path}` makes one that fits"
        )


def load_stage(bundle: Bundle) -> Retrieval | Prerank:
    """The bundle's weights as the PyTorch model."""
    kind = {"retrieval": Retrieval, "prerank": Prerank}[bundle.spec.stage]
    file = bundle.file(WEIGHTS)
    weights = safetensors.torch.load_file(file)
    more = {"users": len(weights[HASHES])} if bundle.spec.user_embedding else {}
    model = kind(bundle.spec, len(bundle.vocabulary), **more)
    if wrong := differences(model.state_dict(), weights):
        raise BundleError(f"{file} does not fit this version of Marmot: {'; '.join(wrong)}")
    model.load_state_dict(weights)
    return cast("Retrieval | Prerank", model.eval())


class StageReference:
    """Scores of a stage from a table of events."""

    def __init__(self, stage: Bundle, ranker: Bundle, table: EventTable) -> None:
        check_reads(stage, ranker)
        self.tasks = ranker.spec.tasks[:1] if stage.spec.stage == "retrieval" else ranker.spec.tasks
        self._model, self._ranker = load_stage(stage), cast("Marm", load_model(ranker))
        self._table, self._vocabulary = table, ranker.vocabulary
        self._rows = ranker.vocabulary.rows(table.item_ids)[table.items]
        self._users = {user_id: index for index, user_id in enumerate(table.user_ids)}
        self._places: dict[str, int] = {}
        if isinstance(self._model, Retrieval):
            additions = Additions.read(stage.path)
            ids = [*ranker.vocabulary.ids, *(additions.ids if additions else ())]
            self._places = {item_id: row for row, item_id in enumerate(ids)}
            self._items = torch.from_numpy(table_of(self._model, additions))

    @classmethod
    def of(cls, stage: Bundle, ranker: Bundle, table: EventTable) -> Self:
        return cls(stage, ranker, table)

    @torch.no_grad()
    def score(self, request: Request) -> Array:
        """(candidates, tasks); nan for what retrieval has not in its table."""
        history = self._history(request)
        when = torch.tensor([request.timestamp])
        ids = [str(item) for item in request.candidates]
        if isinstance(self._model, Prerank):
            rows = torch.from_numpy(self._vocabulary.rows(ids))[None]
            return torch.sigmoid(self._model.forward_cached(rows, when, history))[0].numpy()
        known = self._model.known_users.row(str(request.user_id), history.items.shape[1])
        user = self._model.user(when, history, torch.tensor([known]))
        scores = np.full((len(ids), 1), np.nan, np.float32)
        places = [(n, self._places[item]) for n, item in enumerate(ids) if item in self._places]
        if places:
            asked, rows_of = (list(part) for part in zip(*places, strict=True))
            logits = self._model.logits(user, self._items[rows_of])
            scores[asked, 0] = torch.sigmoid(logits)[0].numpy()
        return scores

    def _history(self, request: Request) -> History:
        user = self._users.get(str(request.user_id))
        span = slice(0, 0) if user is None else self._table.user(user)
        known = int(np.searchsorted(self._table.timestamps[span], request.timestamp, "right"))
        window, spec = self._model.spec.window, self._ranker.spec
        field = window + spec.hidden_depths * spec.window
        stop = span.start + known
        newest = slice(max(span.start, stop - field), stop)
        columns = (self._rows, self._table.timestamps, self._table.labels)
        items, times, feedback = (
            torch.from_numpy(np.ascontiguousarray(column[newest]))[None] for column in columns
        )
        whole = (items, times, feedback, self._ranker.encode(items, times, feedback))
        return History(*(part[:, -window:] for part in whole))
