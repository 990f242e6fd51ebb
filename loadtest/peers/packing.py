"""What a peer knows of a user, as one value: the inputs of `rank.onnx` but the candidates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Port = dict[str, Any]


def key_of(user_id: str) -> str:
    """The user's key in Redis."""
    return f"peer:{user_id}"


def history_ports(bundle: Path) -> list[Port]:
    """The inputs of `rank.onnx` apart from the candidates: what is known of a user, and when."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    inputs: list[Port] = manifest["graphs"]["rank"]["inputs"]
    return [port for port in inputs if port["name"] != "candidates"]


def packed(feed: dict[str, Array], ports: Sequence[Port]) -> bytes:
    """A user as one value: the number of records, then each input's bytes, one after the other."""
    records = len(feed["items"][0])
    return records.to_bytes(4, "little") + b"".join(feed[port["name"]].tobytes() for port in ports)


def unpacked(value: bytes, ports: Sequence[Port]) -> dict[str, Array]:
    """The inputs as views into the value."""
    sizes = {"batch": 1, "records": int.from_bytes(value[:4], "little")}
    feed, start = {}, 4
    for port in ports:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port["axes"]]
        count = int(np.prod(shape))
        array = np.frombuffer(value, port["dtype"], count, start)
        feed[port["name"]] = array.reshape(shape)
        start += array.nbytes
    return feed
