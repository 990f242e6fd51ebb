"""What every peer does for a request: one value from Redis, one run of `rank.onnx`.

The same for all of them, so that what differs is the server around it. Its settings are the
environment's: PEER_BUNDLE, a bundle's folder; PEER_ITEMS, its item ids as a JSON list; PEER_REDIS,
a URL; PEER_PORT, where the peer listens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime as ort
from redis import Redis

from loadtest.peers.packing import history_ports, key_of, unpacked

REDIS = os.environ.get("PEER_REDIS", "redis://127.0.0.1:6379/0")
PORT = int(os.environ.get("PEER_PORT", "8000"))


class Ranking:
    """One graph on one thread, and the connection to what is known of users."""

    def __init__(self, bundle: Path, items: Sequence[int | str], url: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self._session = ort.InferenceSession(str(bundle / "rank.onnx"), options, providers)
        self._ports = history_ports(bundle)
        self._rows = {item: row for row, item in enumerate(items)}
        self._redis = Redis.from_url(url)

    @classmethod
    def from_environment(cls) -> Self:
        items = json.loads(Path(os.environ["PEER_ITEMS"]).read_bytes())
        return cls(Path(os.environ["PEER_BUNDLE"]), items, REDIS)

    def rank(self, user_id: str, candidates: Sequence[int | str]) -> list[float]:
        """Fetches and scores; waits for both."""
        return self.score(self._redis.get(key_of(user_id)), candidates)

    def score(self, packed: object, candidates: Sequence[int | str]) -> list[float]:
        """Probabilities of the first task, in the order of the candidates."""
        if not isinstance(packed, bytes):
            raise LookupError("Nothing is known of this user.")
        feed = unpacked(packed, self._ports)
        feed["candidates"] = np.array([[self._rows[item] for item in candidates]], np.int64)
        (scores,) = self._session.run(["scores"], feed)
        found: list[float] = scores[0, :, 0].tolist()
        return found
