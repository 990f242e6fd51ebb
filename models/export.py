"""Export: a trained model becomes a bundle, and no bundle is written that is not proven equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import safetensors.torch
import torch

from models.bundle import EXPLAIN, fingerprint_of, write_bundle, write_items
from models.families import build_graphs
from models.graph import described
from models.graph_files import GraphFiles
from models.marm import Marm
from models.ranking_model import History, RankingModel
from models.sequences import NEVER_S
from models.spec import PROJECTED_INT8, Spec
from models.summarised import Summarised

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

#: What rounding tokens to the cache's dtype may do to a probability, at export.
SUMMARY_STEP = {"float32": 0.0, "float16": 5e-3, "int8": 2e-2}

#: A graph may differ from PyTorch by this much, in probability or in a record's number.
TOLERANCE = 1e-4


class ExportError(Exception):
    """A graph does not compute what the model computes; no bundle was written."""


def export(
    model: RankingModel,
    item_ids: list[str],
    item_names: list[str | None],
    path: Path,
    *,
    name: str = "marmot",
    version: str | None = None,
    lineage: str | None = None,
    trained_on: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Writes the bundle at `path` in one step and returns its fingerprint.

    Raises `ExportError` if a graph differs from PyTorch, and leaves `path` as it was.
    """
    model = model.eval()
    graphs = build_graphs(model)
    runs = {name: session(proto) for name, (proto, _) in graphs.items()}
    _prove(model, runs)
    if not _keeps_int8(model, runs):
        for graph in PROJECTED_INT8:
            del graphs[graph], runs[graph]
    tensors = [
        (tensor_name, tensor.shape, tensor.contiguous().numpy().tobytes())
        for tensor_name, tensor in model.state_dict().items()
    ]
    fingerprint = fingerprint_of(model.spec, tensors, item_ids)
    files = GraphFiles(graphs)
    manifest = {
        "name": name,
        "version": version or fingerprint[:8],
        "fingerprint": fingerprint,
        "lineage": lineage,
        "family": model.spec.family,
        "spec": model.spec.to_dict(),
        "receptive_field": model.spec.receptive_field,
        "row": _row(model.spec),
        "graphs": described(files.graphs),
        "trained_on": dict(trained_on or {}),
        "metrics": dict(metrics or {}),
    }

    def fill(folder: Path) -> None:
        files.write(folder)
        safetensors.torch.save_file(dict(model.state_dict()), folder / "weights.safetensors")
        categories = model.categories[: len(item_ids)].tolist() if model.spec.finds_first else None
        write_items(folder / "items.parquet", item_ids, item_names, categories)
        np.savez(folder / "example.npz", **example(model, runs))  # type: ignore[arg-type]

    write_bundle(path, manifest, fill)
    return fingerprint


def _row(spec: Spec) -> list[dict[str, Any]]:
    kinds = ((name, spec.row[name]) for name in spec.row.names or ())
    return [
        {"name": name, "dtype": kind.base.name, "shape": list(kind.shape)} for name, kind in kinds
    ]


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """A graph ready to run: on the CPU, in one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # graphs of depth 1 have inputs that nothing reads
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _run(session: ort.InferenceSession, feed: Feed) -> list[Array]:
    wanted = {port.name for port in session.get_inputs()}
    return list(session.run(None, {name: value for name, value in feed.items() if name in wanted}))


def _timeline(model: RankingModel, batch: int, events: int, random: np.random.Generator) -> Feed:
    rows = model.items + model.spec.fallback_rows
    shape = (batch, events)
    return {
        "items": random.integers(0, rows, shape),
        "timestamps": np.sort(random.integers(0, 10**9, shape), axis=1),
        "feedback": random.integers(-1, 2, (*shape, len(model.spec.tasks))).astype(np.int8),
    }


def example(model: RankingModel, runs: Mapping[str, ort.InferenceSession]) -> Feed:
    """One valid feed of the rank graph: all that it can read, and sixteen candidates."""
    random = np.random.default_rng(0)
    past = _timeline(model, 1, _shown(model.spec), random)
    summary: Feed = {}
    if model.spec.summary:
        past, summary = _summed(model, runs, past)
    rows = model.items + model.spec.fallback_rows
    names = model.spec.row.names or ()
    records = _run(runs["encode"], past) if names else []
    return {
        "candidates": random.integers(0, rows, (1, 16)),
        "timestamp": past["timestamps"][:, -1] + 60,
        **past,
        **dict(zip(names, records, strict=True)),
        **summary,
    }


def _shown(spec: Spec) -> int:
    """Events to show a rank graph: all that it can read, or of a long history enough to search."""
    is_long = spec.search and not spec.finds_first
    return min(spec.attends, spec.search + spec.window) if is_long else spec.attends


def _prove(model: RankingModel, runs: Mapping[str, ort.InferenceSession]) -> None:
    """Compares every graph with PyTorch on random timelines, cut at every kind of place."""
    random = np.random.default_rng(0)
    reads, names = _shown(model.spec), model.spec.row.names or ()
    if model.spec.summary:
        _prove_summary(cast("Summarised", model), runs, random)
        return
    for batch, events, old in ((1, 1, 0), (1, reads + 3, reads), (2, 2 * reads + 6, 7)):
        whole = _timeline(model, batch, events, random)
        cached: Feed = {}
        if names:
            encoded = _run(runs["encode"], whole)
            exact = _encode(cast("Marm", model), whole)
            _compare("encode.onnx", _decoded(encoded), exact, _step(model.spec, encoded))
            past = {name: value[:, max(0, old - reads) : old] for name, value in whole.items()}
            rows = {
                name: value[:, max(0, old - reads) : old]
                for name, value in zip(names, encoded, strict=True)
            }
            new = {f"new_{name}": value[:, old:] for name, value in whole.items()}
            appended = _run(runs["append"], {**past, **rows, **new})
            expected = _append(cast("Marm", model), past, _decoded(list(rows.values())), new)
            _compare("append.onnx", _decoded(appended), expected, _step(model.spec, appended))
            cached = {n: v[:, -reads:] for n, v in zip(names, encoded, strict=True)}
        seen = {name: value[:, -reads:] for name, value in whole.items()}
        # Padding, and events after the request, are in the future: both must vanish.
        seen["timestamps"] = seen["timestamps"].copy()
        seen["timestamps"][:, -1:] = NEVER_S if events % 2 else seen["timestamps"][:, -1:]
        asked = {
            "candidates": random.integers(0, model.items, (batch, 5)),
            "timestamp": np.full(batch, 10**9),
        }
        scores = _run(runs["rank"], {**asked, **seen, **cached})[0]
        _compare("rank.onnx", scores, _rank(model, asked, seen, list(cached.values())), 0.0)
        if model.spec.search:
            shown = _all_counted(model.spec, {**seen, **cached})
            wanted = _run(runs["rank"], {**asked, **shown})[0]
            if not model.spec.finds_first:
                _prove_sought(runs, asked, shown, wanted)
            elif events >= reads:
                _prove_found(model, runs, asked, shown, wanted)
        if "projected" in runs:
            _prove_projected(runs, asked, {**seen, **cached}, scores)
        if EXPLAIN in runs:
            explained, spread, rest = _run(runs[EXPLAIN], {**asked, **seen, **cached})
            _compare("explain.onnx", explained, scores, 0.0)
            _compare("explain.onnx", spread.sum(axis=3) + rest, np.ones_like(rest), 0.0)


def _all_counted(spec: Spec, shown: Feed) -> Feed:
    """The same events as those that a search may find: others are left out before its graphs."""
    if spec.where is None:
        return shown
    feedback = shown["feedback"].copy()
    feedback[..., spec.where] = 1
    return {**shown, "feedback": feedback}


def _prove_found(
    model: RankingModel,
    runs: Mapping[str, ort.InferenceSession],
    asked: Feed,
    shown: Feed,
    scores: Array,
) -> None:
    """The same of the graphs that take projecting and ranking apart, candidates in two rows."""
    made = _run(runs["project"], shown)
    names = [port.name for port in runs["project"].get_outputs()]
    for request in range(len(scores)):
        ready = {
            n: np.repeat(part[request, None], 2, axis=0)
            for n, part in zip(names, made, strict=True)
        }
        ready["timestamps"] = shown["timestamps"][[request, request]]
        seats = np.array([[0, 0], [1, 2], [0, 1], [1, 0], [1, 1]])
        feed = {
            **{name: part[None] for name, part in ready.items()},
            **{name: part[request, None] for name, part in asked.items()},
            "places": np.array([[[0, 2, 0], [3, 4, 1]]]),
            "seats": seats[None],
        }
        _compare("found.onnx", _run(runs["found"], feed)[0][0], scores[request], 0.0)


def _prove_sought(
    runs: Mapping[str, ort.InferenceSession], asked: Feed, shown: Feed, scores: Array
) -> None:
    """The same where all events are searched: one row more, in the future, is the null token's."""
    names = [port.name for port in runs["project"].get_outputs()]
    for request in range(len(scores)):
        events = {}
        for name, part in shown.items():
            more = np.zeros_like(part[request, None, :1])
            more += NEVER_S if name == "timestamps" else 0
            events[name] = np.concatenate([part[request, None], more], axis=1)
        made = dict(zip(names, _run(runs["project"], events), strict=True))
        asks = {name: part[request, None] for name, part in asked.items()}
        ready = {"timestamps": events["timestamps"], **made}
        _compare("found.onnx", _run(runs["found"], {**asks, **ready})[0][0], scores[request], 0.0)


def _prove_projected(
    runs: Mapping[str, ort.InferenceSession], asked: Feed, shown: Feed, scores: Array
) -> None:
    """The same of keys and values that were made before."""
    names = [port.name for port in runs["project"].get_outputs()]
    ready = dict(zip(names, _run(runs["project"], shown), strict=True))
    times = shown["timestamps"]
    leading = ready["offsets"].shape[1] - times.shape[1]
    ready["timestamps"] = np.pad(times, [(0, 0), (leading, 0)])
    _compare("projected.onnx", _run(runs["projected"], {**asked, **ready})[0], scores, 0.0)


def _keeps_int8(model: RankingModel, runs: Mapping[str, ort.InferenceSession]) -> bool:
    """Whether what graphs in 8 bits there are stay within int8's law on random timelines."""
    if PROJECTED_INT8[0] not in runs:
        return True
    random = np.random.default_rng(0)
    project, projected = (runs[name] for name in PROJECTED_INT8)
    names = [port.name for port in project.get_outputs()]
    for events in (0, 1, *[model.spec.window] * 4):
        shown = _timeline(model, 1, max(events, 1), random)
        rows = model.spec.row.names or ()
        shown |= dict(zip(rows, _run(runs["encode"], shown) if rows else [], strict=True))
        shown = {name: part[:, :events] for name, part in shown.items()}
        asked = {
            "candidates": random.integers(0, model.items, (1, 64)),
            "timestamp": np.array([10**9]),
        }
        ready = dict(zip(names, _run(project, shown), strict=True))
        leading = ready["offsets"].shape[1] - events
        ready["timestamps"] = np.pad(shown["timestamps"], [(0, 0), (leading, 0)])
        (found,) = _run(projected, {**asked, **ready})
        (scores,) = _run(runs["rank"], {**asked, **shown})
        if not float(np.abs(found - scores).max()) <= SUMMARY_STEP["int8"]:
            return False
    return True


def _prove_summary(
    model: Summarised, runs: Mapping[str, ort.InferenceSession], random: np.random.Generator
) -> None:
    """The same for the graphs of a summary, made step by step, and scores after whole timelines."""
    spec = model.spec
    for count in (0, 1, 3 * spec.refresh_events + spec.refresh_events // 2):
        whole = _timeline(model, 1, count, random)
        now, candidates = 10**9, random.integers(0, model.items, 5)
        seen, summary = _summed(model, runs, whole)
        for name, value in seen.items():  # one event more, of padding, which must vanish
            padding = np.zeros((1, 1, *value.shape[2:]), value.dtype)
            padding += NEVER_S if name == "timestamps" else 0
            seen[name] = np.concatenate([padding, value], axis=1)
        asked = {"candidates": candidates[None], "timestamp": np.array([now])}
        scores = _run(runs["rank"], {**asked, **seen, **summary})[0]
        with torch.no_grad():
            items, timestamps, feedback = (column[0] for column in _tensors(whole))
            logits = model.forward_after(
                items, timestamps, feedback, torch.from_numpy(candidates), now
            )
        exact = torch.sigmoid(logits)[None].numpy()
        _compare("rank.onnx", scores, exact, SUMMARY_STEP[spec.cache_dtype])


def _summed(
    model: RankingModel, runs: Mapping[str, ort.InferenceSession], whole: Feed
) -> tuple[Feed, Feed]:
    """The newest window of a timeline, and the summary of its first events, made in two parts."""
    spec = model.spec
    count = whole["items"].shape[1]
    covered = count // spec.refresh_events * spec.refresh_events
    before = np.concatenate([np.full((1, 1), -1), whole["items"][:, :-1]], axis=1)[:, :count]
    gaps = np.diff(whole["timestamps"], axis=1, prepend=whole["timestamps"][:, :1])
    links = {"items": whole["items"], "before": before, "gaps_s": gaps}
    links |= {"feedback": whole["feedback"], "present": np.ones((1, count), np.int8)}
    state = np.zeros((1, *spec.summary_row["state"].shape), np.float32)
    cut, fields = covered // 2, list[Array]()
    for span in (slice(0, cut), slice(cut, covered)):
        part = {name: value[:, span] for name, value in links.items()}
        *fields, state = _run(runs["summarise"], {"state": state, **part})
    seen = {name: value[:, max(0, count - spec.window) :] for name, value in whole.items()}
    summary = dict(zip(spec.summary_row.names or (), fields, strict=False))
    return seen, {**summary, "covered": np.array([covered])}


def _compare(graph: str, found: Array, expected: Array, allowed: Array | float) -> None:
    excess = np.abs(found - expected) - allowed
    if excess.size and not float(excess.max()) <= TOLERANCE:
        raise ExportError(
            f"{graph} differs from PyTorch by {float(excess.max()):.1e}, "
            f"more than {TOLERANCE:.0e}; no bundle was written"
        )


def _decoded(fields: list[Array]) -> Array:
    """A row's fields as float32 records."""
    records = fields[0].astype(np.float32)
    return records * fields[1].astype(np.float32)[..., None] if len(fields) > 1 else records


def _step(spec: Spec, fields: list[Array]) -> Array | float:
    """How far rounding to the cache's dtype may move each number."""
    if spec.cache_dtype == "int8":
        return np.asarray(fields[1].astype(np.float32)[..., None] * 0.501)
    if spec.cache_dtype == "float16":
        return np.asarray(np.abs(fields[0].astype(np.float32)) * 2.0**-11)
    return 0.0


def _tensors(feed: Feed, prefix: str = "") -> list[torch.Tensor]:
    names = ("items", "timestamps", "feedback")
    return [torch.from_numpy(np.ascontiguousarray(feed[prefix + name])) for name in names]


def _history(past: Feed, records: Array) -> History:
    items, timestamps, feedback = _tensors(past)
    return History(items, timestamps, feedback, torch.from_numpy(np.ascontiguousarray(records)))


@torch.no_grad()
def _encode(model: Marm, whole: Feed) -> Array:
    return model.encode(*_tensors(whole)).numpy()


@torch.no_grad()
def _append(model: Marm, past: Feed, records: Array, new: Feed) -> Array:
    history = _history(past, records)
    return model.append(history, *_tensors(new, "new_")).numpy()


@torch.no_grad()
def _rank(model: RankingModel, asked: Feed, seen: Feed, rows: list[Array]) -> Array:
    B, R = seen["items"].shape
    empty = np.zeros((B, R, 0, model.spec.width), np.float32)
    records = _decoded(rows) if rows else empty
    logits = model.forward_cached(
        torch.from_numpy(asked["candidates"]),
        torch.from_numpy(asked["timestamp"]),
        _history(seen, records),
    )
    return torch.sigmoid(logits).numpy()
