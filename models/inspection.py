"""What a bundle is, in words and figures that follow from its spec."""

from __future__ import annotations

from typing import Any

from models.bundle import Bundle


def describe(bundle: Bundle) -> dict[str, Any]:
    """The lines of `marmot inspect`, in order."""
    spec = bundle.spec
    row = spec.row.itemsize
    return {
        "name": bundle.name,
        "version": bundle.version,
        "fingerprint": bundle.fingerprint,
        "model": f"{spec.family}, depth {spec.depth}, window {spec.window}, width {spec.width}, "
        f"{spec.heads} heads, time gap {'on' if spec.time_gap else 'off'}",
        "tasks": ", ".join(spec.tasks),
        "items": len(bundle.vocabulary),
        "receptive field": f"{spec.receptive_field} events",
        "cached per event": f"{spec.cached_depths} depths x {spec.width} x {spec.cache_dtype} "
        f"= {row} bytes",
        "cached per user": f"up to {spec.reach} events = {row * spec.reach:,} bytes",
        "per candidate": f"{operations_per_candidate(bundle):,} multiply-adds at a full window",
        "metrics": bundle.manifest["metrics"],
        "trained on": bundle.manifest["trained_on"],
    }


def operations_per_candidate(bundle: Bundle) -> int:
    """Multiply-adds of one candidate's steps: projections, attention, feed-forward."""
    spec = bundle.spec
    projections = 6 * spec.width**2  # query, out, and a feed-forward block of twice the width
    attention = 2 * (spec.window + 1) * spec.width
    return spec.depth * (projections + attention)
