"""A checkpoint of streaming training: one file, there whole or not at all; going on from it gives
the bytes that going on without it would have given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models.stream_memory import Coming, Traffic
from models.streaming import Streamer
from models.whole_file import written_whole

Array = np.ndarray[Any, Any]
#: What moves in where training starts.
RUNNING = ("base", "counts", "likes", "factors")
Pending = Sequence[tuple[Coming, Array]]


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from; the message says why."""


def write_checkpoint(path: Path, streamer: Streamer, identity: dict[str, Any]) -> None:
    """Everything that moves, and what the store does not have yet."""
    pending = streamer.memory.pending()
    log, running = streamer.log, streamer.running
    state = {
        "identity": identity,
        "events": streamer.events,
        "fitted": streamer.fitted,
        "step": streamer.step,
        "random": streamer.random.bit_generator.state,
        "points": log.points,
        "traffic": streamer.memory.traffic.to_dict(),
        "pending": [[new.user_id, new.item_ids] for new, _ in pending],
    }
    arrays = {"scores": log.scores, "labels": log.labels, "users": log.users, **_packed(pending)}
    tensors = {
        **{f"live.{name}": weight for name, weight in streamer.live.state_dict().items()},
        **{f"model.{name}": weight for name, weight in streamer.model.state_dict().items()},
        **{
            f"optimiser.{place}.{name}": value
            for place, found in streamer.optimiser.state_dict()["state"].items()
            for name, value in found.items()
        },
        **{f"log.{name}": torch.from_numpy(array) for name, array in arrays.items()},
        **{f"running.{name}": getattr(running, name) for name in RUNNING},
        "generator": streamer.generator.get_state(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as half:
        safetensors.torch.save_file(tensors, half, {"state": json.dumps(state)})


def read_checkpoint(path: Path, streamer: Streamer, identity: dict[str, Any]) -> Pending:
    """Sets the streamer where it was; answers what was pending. Raises `CheckpointError`."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is no checkpoint of a stream: {error}") from error
    found = state["identity"]
    if other := sorted(name for name in identity if identity[name] != found.get(name)):
        raise CheckpointError(
            f"{path} is a checkpoint of another stream: {', '.join(other)} differ; "
            "go on as it began, or name another file"
        )
    for name, model in (("live.", streamer.live), ("model.", streamer.model)):
        model.load_state_dict(_under(name, tensors))
    kept: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimiser.", tensors).items():
        place, _, field = name.partition(".")
        kept.setdefault(int(place), {})[field] = value
    streamer.optimiser.load_state_dict({**streamer.optimiser.state_dict(), "state": kept})
    streamer.events, streamer.step = state["events"], state["step"]
    streamer.fitted = state["fitted"]
    streamer.random.bit_generator.state = state["random"]
    streamer.generator.set_state(tensors["generator"])
    log = streamer.log
    for name in RUNNING:
        setattr(streamer.running, name, tensors[f"running.{name}"])
    arrays = {name: value.numpy() for name, value in _under("log.", tensors).items()}
    log.points, log.scores = state["points"], arrays["scores"]
    log.labels, log.users = arrays["labels"], arrays["users"]
    streamer.memory.traffic = Traffic(**state["traffic"])
    return _unpacked(state["pending"], arrays, streamer)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _packed(pending: Pending) -> dict[str, Array]:
    if not pending:
        return {}
    return {
        "pending_timestamps": np.concatenate([new.timestamps for new, _ in pending]),
        "pending_labels": np.concatenate([new.labels for new, _ in pending]),
        "pending_said_at": np.concatenate([new.said_at for new, _ in pending]),
        "pending_rows": np.concatenate([rows for _, rows in pending]).view(np.uint8),
    }


def _unpacked(
    ids: list[tuple[str, list[str]]], arrays: dict[str, Array], streamer: Streamer
) -> Pending:
    if not ids:
        return []
    cuts = np.cumsum([len(item_ids) for _, item_ids in ids])[:-1]
    times, labels, said_at = (
        np.split(arrays[f"pending_{name}"], cuts) for name in ("timestamps", "labels", "said_at")
    )
    rows = np.split(arrays["pending_rows"].view(streamer.spec.row), cuts)
    return [
        (Coming(user_id, item_ids, times[n], labels[n], said_at[n]), rows[n])
        for n, (user_id, item_ids) in enumerate(ids)
    ]
