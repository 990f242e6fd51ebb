"""What a bundle is, in words and figures that follow from its spec."""

from __future__ import annotations

from typing import Any

from models.bundle import Bundle
from models.known_users import KnownUsers
from models.operations import operations, summing
from models.spec import Spec


def describe(bundle: Bundle) -> dict[str, Any]:
    """The lines of `marmot inspect`, in order."""
    spec = bundle.spec
    work, runs = operations(spec), bundle.graphs[spec.graphs[0]].file
    return {
        "name": bundle.name,
        "version": bundle.version,
        "fingerprint": bundle.fingerprint,
        "model": f"{spec.family}, depth {spec.depth}, window {spec.window}, width {spec.width}, "
        f"{spec.heads} heads, time gap {'on' if spec.time_gap else 'off'}",
        "tasks": ", ".join(spec.tasks),
        "items": len(bundle.vocabulary),
        **(_read(bundle) if bundle.reads else _kept(spec)),
        "a request reads": f"{spec.reads} events" + _records(spec),
        "a request runs": f"{runs}: {work.per_request:,} multiply-adds at a full window",
        "per candidate": f"{work.per_candidate:,} more",
        "metrics": bundle.manifest["metrics"],
        "trained on": bundle.manifest["trained_on"],
    }


def _searched(spec: Spec) -> dict[str, str]:
    if not spec.search:
        return {}
    each = "candidate" if spec.finds_first else "candidate and layer"
    return {
        "searches": f"{spec.search} of the newest {spec.history:,} events for each {each}, "
        f"by {spec.search_by}"
    }


def _kept(spec: Spec) -> dict[str, str]:
    return {
        "receptive field": f"{spec.receptive_field} events",
        **({"attends to": f"events whose {spec.history_where} is 1"} if spec.history_where else {}),
        **_searched(spec),
        **_cached(spec),
    }


def _read(bundle: Bundle) -> dict[str, str]:
    return {
        "stage": bundle.spec.stage,
        "reads the records of": str(bundle.reads),
        **_known_users(bundle),
    }


def _known_users(bundle: Bundle) -> dict[str, str]:
    if not bundle.spec.user_embedding:
        return {}
    known, width = len(KnownUsers.read(bundle)), bundle.spec.width
    return {
        "knows of users": f"{known:,} x {width} x float32 = {4 * known * width:,} bytes, and "
        f"{8 * known:,} of their ids' hashes",
    }


def _cached(spec: Spec) -> dict[str, str]:
    if spec.summary:
        whole, state = spec.summary_row.itemsize, spec.summary_row["state"].itemsize
        return {
            "cached per event": "nothing",
            "cached per user": f"a summary of {spec.summary} tokens x {spec.width} x "
            f"{spec.cache_dtype} = {whole - state:,} bytes, and {state:,} bytes of sums",
            "a summary covers": f"the first events in steps of {spec.refresh_events}, up to "
            f"{spec.history:,}",
            "an event runs": f"summarise.onnx, with {spec.refresh_events - 1} others: "
            f"{summing(spec):,} multiply-adds",
        }
    row, depths = spec.row.itemsize, f"{spec.cached_depths} depths x {spec.width}"
    if not row:
        return {
            "cached per event": "nothing",
            "cached per user": "the timeline alone, 0 bytes more",
        }
    return {
        "cached per event": f"{depths} x {spec.cache_dtype} = {row} bytes",
        "cached per user": f"up to {spec.reach} events = {row * spec.reach:,} bytes",
    }


def _records(spec: Spec) -> str:
    if spec.summary:
        return f" and {spec.summary} tokens"
    if spec.encodes:
        return ", and makes their records"
    return " with their records" if spec.cached_depths else ""
