"""Blocks: which keys some targets of one user may attend to, so that nobody pads for others.

Targets of a user are cut in blocks of a few; their keys are the window before the first of them
and the block itself. What the blocks point into lies flat, user after user.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

#: Targets of a block: few enough that little of it is empty or masked.
BLOCK = 16


class Blocks(NamedTuple):
    """G blocks of S targets and K keys; of T targets, and of R old events and T new ones."""

    keys: Tensor  # (G, K) int64, into old and new events
    targets: Tensor  # (G, S) int64, into new events
    places: Tensor  # (T,) int64: where each target is, among G * S
    gaps_s: Tensor  # (G, 2S, K) int64: of the targets as exposed, then as asked about
    unseen: Tensor  # (G, 2S, K) bool


def blocks_of(
    before: Array, count: Array, visible: Array, old_times: Array, new_times: Array, window: int
) -> Blocks:
    """Blocks of users with `before` (U,) old events and `count` (U,) new ones, at least one.

    A new event's session starts at `visible` (T,), a place among its user's new events; times
    (R,) and (T,), int64 seconds.
    """
    R = len(old_times)
    first_old, first_new = np.cumsum(before) - before, np.cumsum(count) - count
    parts = -(-count // BLOCK)
    user = np.repeat(np.arange(len(count)), parts)  # (G,)
    start = (np.arange(len(user)) - np.repeat(np.cumsum(parts) - parts, parts)) * BLOCK
    size = min(BLOCK, int(count.max()))
    reach = min(window, int((before[user] + start).max()))
    place = start[:, None] + np.arange(size)  # (G, S) within the user's new events
    is_target = place < count[user, None]
    targets = np.where(is_target, first_new[user, None] + place, 0)
    key = start[:, None] + np.arange(-reach, size)  # (G, K): below 0 they are old
    is_key = (key >= -before[user, None]) & (key < count[user, None])
    old = first_old[user, None] + before[user, None] + key
    keys = np.where(is_key, np.where(key < 0, old, R + first_new[user, None] + key), 0)
    end = np.concatenate([place, visible[targets]], axis=1)  # (G, 2S)
    unseen = (key[:, None] >= end[:, :, None]) | (key[:, None] < end[:, :, None] - window)
    unseen |= ~is_key[:, None]
    times = np.concatenate([old_times, new_times])
    session = first_new[user, None] + visible[targets]
    asked_at = new_times[np.concatenate([targets, np.where(is_target, session, 0)], axis=1)]
    places = np.flatnonzero(is_target)  # users and places are in order, and so are targets
    return Blocks(
        torch.from_numpy(keys),
        torch.from_numpy(targets),
        torch.from_numpy(places),
        torch.from_numpy(asked_at[:, :, None] - times[keys][:, None]),
        torch.from_numpy(unseen),
    )
