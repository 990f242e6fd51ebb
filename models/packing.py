"""A mini-batch of the stream as one row: events of many users one after another, none padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.blocks import Blocks, blocks_of
from models.bundle import Vocabulary
from models.ranking_model import History
from models.sequences import stretches
from models.spec import Spec
from models.stream_memory import Coming, Known

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """What `Marm.forward_packed` takes."""

    history: History  # (R, ...)
    missed: Tensor  # (R,) bool
    new: History  # (T, ...), without records
    blocks: Blocks


def pack(
    coming: Sequence[Coming],
    known: Sequence[Known],
    vocabulary: Vocabulary,
    spec: Spec,
    *,
    random: np.random.Generator,
    longest_session: int,
) -> Packed:
    """Each user's new events behind what is known of the user.

    As in training over whole timelines, new events are cut in sessions of random length, and what
    is asked about within one sees what came before it.
    """
    known = [past.last(spec.window) for past in known]
    before = np.array([len(past.item_ids) for past in known])
    count = np.array([len(new.item_ids) for new in coming])
    visible = np.concatenate([_starts(n, random, longest_session) for n in count.tolist()])
    rows = np.concatenate([past.rows for past in known])
    valid = np.concatenate([past.valid for past in known])
    old_times = np.concatenate([past.timestamps for past in known])
    new_times = np.concatenate([new.timestamps for new in coming])
    records = np.where(valid[:, None, None], decoded(rows, spec), np.float32(0))
    history = History(
        torch.from_numpy(vocabulary.rows([item for past in known for item in past.item_ids])),
        torch.from_numpy(old_times),
        torch.from_numpy(np.concatenate([past.feedback for past in known])),
        torch.from_numpy(records),
    )
    new = History(
        torch.from_numpy(vocabulary.rows([item for part in coming for item in part.item_ids])),
        torch.from_numpy(new_times),
        torch.from_numpy(np.concatenate([part.labels for part in coming])),
        history.records[:0],
    )
    blocks = blocks_of(before, count, visible, old_times, new_times, spec.window)
    return Packed(history, torch.from_numpy(~valid), new, blocks)


def encoded(records: Array, spec: Spec) -> Array:
    """Records (T, hidden depths, width) float32 as the cache holds them: (T,) of `spec.row`."""
    rows = np.zeros(len(records), spec.row)
    if spec.cache_dtype == "int8":
        largest = np.abs(records).max(axis=-1, initial=0.0)
        scales = np.maximum(largest / 127, 1e-4).astype(np.float16)
        steps = records / scales[..., None].astype(np.float32)
        rows["records"], rows["scales"] = np.round(steps).clip(-127, 127), scales
    elif spec.row.names:
        rows["records"] = records
    return rows


def decoded(rows: Array, spec: Spec) -> Array:
    """The other way: (R, hidden depths, width) float32."""
    if not spec.row.names:
        return np.zeros((len(rows), 0, spec.width), np.float32)
    records = rows["records"].astype(np.float32)
    if spec.cache_dtype == "int8":
        records *= rows["scales"].astype(np.float32)[..., None]
    return np.asarray(records)


def _starts(count: int, random: np.random.Generator, longest: int) -> Array:
    """(count,) int64: where each event's session starts."""
    starts = np.empty(count, np.int64)
    for start, stop in stretches(count, random, longest):
        starts[start:stop] = start
    return starts
