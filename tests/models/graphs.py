"""A model's graphs in the runtime, fed with timelines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from hypothesis import strategies as st

from models.families import build_graphs
from models.ranking_model import History, RankingModel
from models.sequences import NEVER_S
from models.spec import Spec
from tests.bundles import random_model

Array = np.ndarray[Any, Any]
ITEMS = 20
WIDTH = 8

#: Few enough that each is built once.
specs = st.builds(
    Spec,
    depth=st.integers(1, 4),
    window=st.sampled_from([1, 3, 5]),
    width=st.just(WIDTH),
    heads=st.sampled_from([1, 2]),
    tasks=st.sampled_from([("like",), ("like", "share")]),
    time_gap=st.booleans(),
    fallback_rows=st.just(2),
)


@cache
def model_of(spec: Spec) -> RankingModel:
    return random_model(spec, ITEMS)


@dataclass(frozen=True, eq=False)
class Timelines:
    """Whole timelines as arrays: items (B, T), timestamps (B, T), feedback (B, T, tasks)."""

    items: Array
    timestamps: Array
    feedback: Array

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        items, times, feedback = (
            torch.from_numpy(np.ascontiguousarray(part))
            for part in (self.items, self.timestamps, self.feedback)
        )
        return items, times, feedback

    def __len__(self) -> int:
        return self.items.shape[1]

    def __getitem__(self, span: slice) -> Timelines:
        return Timelines(self.items[:, span], self.timestamps[:, span], self.feedback[:, span])

    def feed(self, prefix: str = "") -> dict[str, Array]:
        parts = {"items": self.items, "timestamps": self.timestamps, "feedback": self.feedback}
        return {prefix + name: part for name, part in parts.items()}


def timelines(spec: Spec, events: int, *, batch: int = 1, seed: int = 0) -> Timelines:
    """Random ones, with ties and gaps of every size."""
    random = np.random.default_rng(seed)
    gaps = random.integers(0, 2, (batch, events)) * 2 ** random.integers(0, 25, (batch, events))
    feedback = random.integers(-1, 2, (batch, events, len(spec.tasks))).astype(np.int8)
    items = random.integers(0, ITEMS + spec.fallback_rows, (batch, events))
    return Timelines(items, np.cumsum(gaps, axis=1), feedback)


@torch.no_grad()
def full(model: RankingModel, whole: Timelines, candidates: Array, timestamp: int) -> Array:
    """Logits of candidates after a whole timeline, nothing cropped: (candidates, tasks)."""
    n, asked = len(whole), len(candidates)
    items = np.concatenate([whole.items, candidates[None]], axis=1)
    asked_at = np.concatenate([whole.timestamps, np.full((1, asked), timestamp)], axis=1)
    unknown = np.full((1, asked, whole.feedback.shape[2]), -1, np.int8)
    joined = Timelines(items, asked_at, np.concatenate([whole.feedback, unknown], axis=1))
    visible = torch.from_numpy(np.minimum(np.arange(n + asked), n)[None])
    logits = model.forward_full(*joined.tensors, visible, torch.from_numpy(asked_at))
    return logits[0, n:].numpy()


@torch.no_grad()
def encoded(model: RankingModel, whole: Timelines) -> Array:
    """The records of whole timelines: (B, T, depth - 1, width)."""
    return model.encode(*whole.tensors).numpy()


@torch.no_grad()
def requested(
    model: RankingModel, seen: Timelines, records: Array, candidates: Array, timestamp: int
) -> Array:
    """Logits of candidates from what a request reads: (candidates, tasks)."""
    history = History(*seen.tensors, torch.from_numpy(np.ascontiguousarray(records)))
    asked = torch.from_numpy(candidates[None]), torch.tensor([timestamp])
    return model.forward_cached(*asked, history)[0].numpy()


def sessions_of(spec: Spec) -> dict[str, ort.InferenceSession]:
    return {name: session(proto) for name, (proto, _) in build_graphs(model_of(spec)).items()}


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(found: ort.InferenceSession, feed: dict[str, Array]) -> list[Array]:
    wanted = {port.name for port in found.get_inputs()}
    return list(found.run(None, {name: feed[name] for name in feed if name in wanted}))


def left_padded(whole: Timelines, size: int) -> Timelines:
    """Padding before the events, as collation writes it: in the future of everything."""
    batch, _, tasks = whole.feedback.shape
    pad = Timelines(
        np.zeros((batch, size), np.int64),
        np.full((batch, size), NEVER_S),
        np.full((batch, size, tasks), -1, np.int8),
    )
    pairs = zip(
        (pad.items, pad.timestamps, pad.feedback),
        (whole.items, whole.timestamps, whole.feedback),
        strict=True,
    )
    return Timelines(*(np.concatenate(pair, axis=1) for pair in pairs))
