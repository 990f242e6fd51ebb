"""Small bundles with random weights: quick to make, and every weight matters to the score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from models.additions import Additions
from models.bundle import load_bundle
from models.export import export
from models.families import MODELS
from models.graph_weights import as_array
from models.known_users import KnownUsers
from models.prerank import Prerank
from models.ranking_model import RankingModel
from models.reader import Reader
from models.retrieval import Retrieval
from models.spec import Spec
from models.stage_export import export_stage
from models.stage_index import build_index
from models.stage_train import stage_spec

R = TypeVar("R", bound=Reader)

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
    return randomised(MODELS[spec.family](spec, items).eval(), seed)


def randomised(model: R, seed: int) -> R:
    """The same model with other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, _scale(name, weight), generator=generator)
        model.expectation.uniform_(0.1, 0.9, generator=generator)
        if isinstance(model, RankingModel) and model.spec.finds_first:
            model.categories[: model.items].copy_(torch.arange(model.items) % CATEGORIES)
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


def make_stage(
    path: Path,
    ranker: Path,
    stage: str,
    *,
    window: int = 12,
    is_indexed: bool = False,
    users: Sequence[str] = (),
) -> Path:
    """Exports a stage of random weights that reads the records of `ranker`, and knows `users`."""
    reads = load_bundle(ranker)
    kind = {"retrieval": Retrieval, "prerank": Prerank}[stage]
    spec = stage_spec(reads.spec, stage, window, user_embedding=bool(users))
    known = KnownUsers.of(users)
    model: Any = kind(spec, len(reads.vocabulary), **({"users": len(known)} if users else {}))
    randomised(model, seed=1)
    if users:
        model.user_hashes.copy_(torch.from_numpy(known.hashes.view(np.int64)))
    categories = {item: [("kind", str(int(item) % 5))] for item in ITEMS}
    additions = None
    if stage == "retrieval":
        additions = Additions.fit(as_array(model.table), reads.vocabulary.ids, categories)
    index = None
    if is_indexed:
        users = np.random.default_rng(0).standard_normal((20, spec.width + 1), np.float32)
        index, _ = build_index(as_array(model.table), users)
    named = {"fingerprint": reads.fingerprint, "version": reads.version}
    export_stage(model, reads.vocabulary, named, path, name=stage, additions=additions, index=index)
    return path
