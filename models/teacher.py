"""Teacher: a ranking model's own graphs, as those learn from it who read its records."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from models.bundle import Bundle

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

#: Probabilities nearer to 0 or 1 tell nothing more.
EDGE = 1e-6


def open_graph(source: bytes | str) -> ort.InferenceSession:
    """A session on one thread, of a file or of a model's bytes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class Teacher:
    """Records and scores as serving makes them: the cache's dtype, one user at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.spec = bundle, bundle.spec
        self._rank = open_graph(str(bundle.file("rank.onnx")))
        self._encode = open_graph(str(bundle.file("encode.onnx")))
        self._wanted = {port.name for port in self._rank.get_inputs()}

    def rows(self, past: Feed) -> Feed:
        """The records of a timeline's events, items, timestamps and feedback (1, T, …)."""
        names = self.spec.row.names or ()
        if not names:
            return {}
        return dict(zip(names, self._encode.run(None, past), strict=True))

    def scores(self, candidates: Array, timestamp: int, past: Feed, rows: Feed) -> Array:
        """Probabilities (C, tasks) of candidates (C,) after a timeline and its records."""
        feed = {
            "candidates": candidates[None],
            "timestamp": np.array([timestamp]),
            **{n: part[:, -self.spec.reads :] for n, part in {**past, **rows}.items()},
        }
        found = self._rank.run(None, {n: part for n, part in feed.items() if n in self._wanted})
        scores: Array = found[0][0]
        return scores

    def logits(self, candidates: Array, timestamp: int, past: Feed, rows: Feed) -> Array:
        """The same before the sigmoid."""
        likely = self.scores(candidates, timestamp, past, rows).clip(EDGE, 1 - EDGE)
        logits: Array = np.log(likely / (1 - likely))
        return logits


def decoded(rows: Feed) -> Array | None:
    """A row's fields as float32 records, or None without any."""
    if not rows:
        return None
    records = rows["records"].astype(np.float32)
    return records * rows["scales"].astype(np.float32)[..., None] if "scales" in rows else records
