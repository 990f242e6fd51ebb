"""`marmot train --stage retrieval|prerank`: from events and a ranking model to a stage's bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from models.additions import Additions, Categories
from models.agreement import prerank_agreement, retrieval_agreement, user_vectors
from models.bundle import Bundle, Vocabulary, check_target, load_bundle
from models.events import EventTable
from models.graph_weights import as_array
from models.progress import bar
from models.reference import load_model
from models.retrieval import Retrieval
from models.spec import SpecError
from models.stage_export import export_stage
from models.stage_index import build_index, read_index
from models.stage_reference import load_stage
from models.stage_train import StageRecipe, stage_spec, train_stage
from models.teacher import Teacher

Array = np.ndarray[Any, Any]

#: Records that a stage reads where nobody says how many; the ranking model keeps two windows.
WINDOWS = {"retrieval": 200, "prerank": 50}


def run_stage_course(
    table: EventTable,
    ranker: Bundle,
    stage: str,
    out: Path,
    categories: Categories,
    *,
    window: int | None = None,
    steps: int | None = None,
    index: str = "exact",
    user_embedding: bool = False,
    seed: int = 0,
    holdout: float = 0.1,
    name: str | None = None,
    version: str | None = None,
) -> Bundle:
    """Distils a stage from `ranker` on all but the holdout; leaves a verified bundle at `out`."""
    check_target(out)
    if ranker.spec.stage != "rank":
        raise SpecError(
            f"{ranker.path} is a {ranker.spec.stage} model: --ranker takes a ranking one"
        )
    window = WINDOWS[stage] if window is None else window
    spec = stage_spec(ranker.spec, stage, window, user_embedding=user_embedding)
    torch.set_flush_denormal(True)
    teacher, model = Teacher(ranker), cast("Any", load_model(ranker))
    known = as_known(table, ranker.vocabulary)
    recipe = StageRecipe() if steps is None else StageRecipe(steps=steps)
    with bar("asking the ranking model") as ask, bar("learning") as learn:
        trained = train_stage(
            known.take(~known.is_held_out(holdout)), teacher, model, spec, recipe,
            seed=seed, ask=ask, learn=learn,
        )  # fmt: skip
    with bar("measuring") as advance:
        measured = (
            retrieval_agreement(trained, teacher, known, holdout, advance)
            if isinstance(trained, Retrieval)
            else prerank_agreement(trained, model, teacher, known, holdout, advance)
        )
    metrics: dict[str, Any] = {"agreement": measured}
    additions = found = None
    if isinstance(trained, Retrieval) and index == "faiss":
        with bar("indexing") as advance:
            users = user_vectors(trained, teacher, known, holdout, advance)
        found, metrics["index"] = build_index(as_array(trained.table), users)
    if isinstance(trained, Retrieval) and categories:
        additions = Additions.fit(as_array(trained.table), ranker.vocabulary.ids, categories)
    export_stage(
        trained,
        ranker.vocabulary,
        {
            "fingerprint": ranker.fingerprint,
            "version": ranker.version,
            "record_field": ranker.spec.record_field,
        },
        out,
        name=name or f"{ranker.name}-{stage}",
        version=version,
        trained_on={
            "events": int((~known.is_held_out(holdout)).sum()),
            "holdout": holdout,
            "seed": seed,
            **dataclasses.asdict(recipe),
        },
        metrics=metrics,
        additions=additions,
        index=found,
    )
    return load_bundle(out)


def as_known(table: EventTable, vocabulary: Vocabulary) -> EventTable:
    """The same events with the ranking model's rows; items it has not met are on shared ones."""
    rows = vocabulary.rows(table.item_ids)[table.items]
    return dataclasses.replace(table, item_ids=list(vocabulary.ids), items=rows)


class NotAdded(ValueError):
    """Items that cannot be added; the message says why."""

    exit_code = 2


def add_items(bundle: Bundle, names: dict[str, str], categories: Categories, out: Path) -> int:
    """Writes a bundle whose table has the new items too; returns how many they are."""
    check_target(out)
    if bundle.spec.stage != "retrieval":
        raise NotAdded(f"{bundle.path} is no retrieval model: only its table can grow")
    additions = Additions.read(bundle.path)
    if additions is None:
        raise NotAdded(
            f"{bundle.path} was trained without categories, so nothing is known of new items; "
            "train it with --items"
        )
    there = {*bundle.vocabulary.ids, *additions.ids}
    new = [item_id for item_id in categories if item_id not in there]
    grown = additions.add(new, [names.get(item_id) for item_id in new], categories)
    index = read_index(bundle.path)
    if index is not None:
        index.add(grown.vectors[len(additions.ids) :])
    export_stage(
        load_stage(bundle),
        bundle.vocabulary,
        bundle.manifest["reads"],
        out,
        name=bundle.name,
        version=bundle.version,
        trained_on=bundle.manifest["trained_on"],
        metrics=bundle.manifest["metrics"],
        additions=grown,
        index=index,
    )
    return len(new)
