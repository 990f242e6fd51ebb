"""Ranking in 8 bits: near enough to float32, the same in any company, left out where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from models import export as exporting
from models.bundle import Bundle, load_bundle
from models.naive_bench import projected_feed
from models.spec import PROJECTED_INT8
from models.teacher import open_graph
from tests.bundles import make_bundle

LAW = 2e-2  # law 1 for int8
COMPANY = 1e-5  # law 2

NOW_S = 1_000_000_000
SHAPES: list[dict[str, Any]] = [{}, {"depth": 1}, {"tasks": ("like",), "cache_dtype": "int8"}]


@pytest.fixture(params=SHAPES, ids=str)
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return load_bundle(make_bundle(tmp_path / "bundle", heads=1, **request.param))


def opened(bundle: Bundle, graph: str) -> ort.InferenceSession:
    return open_graph(str(bundle.file(bundle.graphs[graph].file)))


def history_of(bundle: Bundle, events: int) -> dict[str, np.ndarray]:
    """Events with the records that the bundle makes of them."""
    random = np.random.default_rng(events)
    spec, shape = bundle.spec, (1, max(events, 1))
    history = {
        "items": random.integers(0, len(bundle.vocabulary), shape),
        "timestamps": np.sort(random.integers(0, NOW_S, shape)),
        "feedback": random.integers(-1, 2, (*shape, len(spec.tasks)), np.int8),
    }
    if spec.row.names:
        rows = opened(bundle, "encode").run(None, history)
        history |= dict(zip(spec.row.names, rows, strict=True))
    return {name: part[:, :events] for name, part in history.items()}


def scores_of(
    bundle: Bundle, history: dict[str, np.ndarray], candidates: np.ndarray, graph: str
) -> np.ndarray:
    asked = {"candidates": candidates[None], "timestamp": np.array([NOW_S])}
    feed = history
    if graph in PROJECTED_INT8:
        read = {port.name for port in bundle.graphs[PROJECTED_INT8[0]].inputs} | {"timestamps"}
        shown = {name: part for name, part in history.items() if name in read}
        feed = projected_feed(bundle, PROJECTED_INT8[0], shown)
    read = {port.name for port in bundle.graphs[graph].inputs}
    session = opened(bundle, graph)
    feed = {name: part for name, part in {**asked, **feed}.items() if name in read}
    return np.asarray(session.run(["scores"], feed)[0][0])


@pytest.mark.parametrize("events", [0, 1, 15, 16, 20])
def test_eight_bits_keep_the_law(bundle: Bundle, events: int) -> None:
    """Whatever the length of history, none included."""
    history = history_of(bundle, min(events, bundle.spec.window))
    candidates = np.arange(len(bundle.vocabulary.ids))
    exact = scores_of(bundle, history, candidates, "rank")
    found = scores_of(bundle, history, candidates, PROJECTED_INT8[1])
    assert np.abs(found - exact).max() <= LAW
    assert (found != exact).any()


def test_candidates_do_not_see_each_other(bundle: Bundle) -> None:
    """Alone, in any order and beside themselves the scores are the same."""
    history, graph = history_of(bundle, bundle.spec.window), PROJECTED_INT8[1]
    candidates = np.arange(len(bundle.vocabulary.ids))
    all_scores = scores_of(bundle, history, candidates, graph)
    turned = scores_of(bundle, history, candidates[::-1].copy(), graph)[::-1]
    assert np.abs(turned - all_scores).max() <= COMPANY
    for place in (0, 3, len(candidates) - 1):
        alone = scores_of(bundle, history, candidates[[place]], graph)
        assert np.abs(alone[0] - all_scores[place]).max() <= COMPANY


def test_several_heads_have_no_such_graphs(tmp_path: Path) -> None:
    """Each head would need keys as wide as all of them."""
    bundle = load_bundle(make_bundle(tmp_path / "bundle", heads=2))
    assert not set(PROJECTED_INT8) & set(bundle.graphs)
    assert "projected" in bundle.graphs


def test_what_does_not_keep_the_law_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that eight bits would move too far has none, and all its other graphs."""
    monkeypatch.setitem(exporting.SUMMARY_STEP, "int8", 1e-9)
    bundle = load_bundle(make_bundle(tmp_path / "bundle", heads=1))
    assert not set(PROJECTED_INT8) & set(bundle.graphs)
    assert {"rank", "projected", "append"} <= set(bundle.graphs)
    assert not list(bundle.path.glob("*int8*"))
