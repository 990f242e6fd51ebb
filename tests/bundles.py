"""Small bundles with random weights: quick to make, and every weight matters to the score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.export import export
from models.families import MODELS
from models.ranking_model import RankingModel
from models.spec import Spec

TINY: dict[str, Any] = {
    "depth": 3,
    "window": 8,
    "width": 16,
    "heads": 2,
    "tasks": ("like", "share"),
    "fallback_rows": 4,
}
CATEGORIES = 4
ITEMS = [str(number) for number in range(60)]


def random_model(spec: Spec, items: int = len(ITEMS), seed: int = 0) -> RankingModel:
    """A model in which no weight is zero and no score is stuck at 0 or 1: what is wrong shows."""
    generator = torch.Generator().manual_seed(seed)
    model = MODELS[spec.family](spec, items).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, _scale(name, weight), generator=generator)
        model.expectation.uniform_(0.1, 0.9, generator=generator)
        if spec.finds_first:
            model.categories[:items].copy_(torch.arange(items) % CATEGORIES)
    return model


def _scale(name: str, weight: torch.Tensor) -> float:
    if name.startswith("embedding"):
        return 1.0
    if weight.dim() == 3 and not name.startswith("layers"):  # (depth, width, tasks), to logits
        return float((weight.shape[0] * weight.shape[1]) ** -0.5)
    fan_in = weight.shape[-1] if weight.dim() > 1 else 4
    return float(fan_in**-0.5)


def make_bundle(
    path: Path,
    *,
    seed: int = 0,
    version: str | None = None,
    lineage: str | None = None,
    **fields: Any,
) -> Path:
    """Exports a bundle of random weights; `fields` change the spec."""
    model = random_model(Spec(**{**TINY, **fields}), seed=seed)
    names: list[str | None] = [f"Item {item}" for item in ITEMS]
    told: dict[str, Any] = {"version": version, "lineage": lineage}
    export(model, ITEMS, names, path, **told, trained_on={"holdout": 0.1})
    return path
