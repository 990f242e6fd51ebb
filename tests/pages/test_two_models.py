"""Two loaded models side by side in the playground."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_bundle
from tests.pages.accessible import serious
from tests.pages.test_playground import items, open_user, scores
from tests.servers import Running, wait_until

EVENTS = [
    {"user_id": "42", "item_id": at * 7 % 60, "timestamp": 1_700_000_000 + at,
     "feedback": {"like": at % 2}}
    for at in range(12)
]  # fmt: skip


@pytest.fixture
def two_models(tiny_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    """One that answers, and one of other weights that is loaded beside it."""
    shelf = tmp_path / "shelf"
    shutil.copytree(tiny_bundle, shelf / "one")
    make_bundle(shelf / "two", seed=1, version="two")
    running = Running(
        bundle=shelf / "one", models_dir=shelf, cache=f"lmdb:{tmp_path}/cache", models_poll_s=0.02
    )
    running.post(*EVENTS)
    assert running.client.post("/v1/models", json={"bundle": "two"}).status_code == 202
    wait_until(lambda: states(running).get("two") == "ready")
    yield running
    running.stop()


def states(running: Running) -> dict[str, str]:
    """Version -> state."""
    return {
        model["version"]: model["state"]
        for model in running.client.get("/v1/models").json()["models"]
    }


def test_beside_another_model(two_models: Running, window: Callable[..., Any]) -> None:
    """The second column is what the other model says of the same user, and where it would place."""
    shown = window(two_models)
    page = shown.open()
    open_user(page, "42")
    page.select_option("#beside", label="model two")
    page.wait_for_selector("td.beside")
    assert page.locator("th.beside").text_content() == "like, two"
    ranked = items(page)
    moment = EVENTS[-1]["timestamp"] + 1
    here = two_models.rank("42", ranked, timestamp=moment)
    there = two_models.rank("42", ranked, timestamp=moment, model={"version": "two"})
    assert here["model"]["fingerprint"] != there["model"]["fingerprint"]
    assert scores(page) == pytest.approx(here["scores"]["like"], abs=5.1e-4)
    told = "cells => cells.map(cell => parseFloat(cell.querySelector('.number').textContent))"
    beside = page.eval_on_selector_all("td.beside", told)
    assert beside == pytest.approx(there["scores"]["like"], abs=5.1e-4)
    places = [there["ranking"].index(item) for item in ranked]
    moves = [place - at for at, place in enumerate(places)]
    shifts = page.eval_on_selector_all(
        "td.beside",
        """cells => cells.map(cell => {
          const move = cell.querySelector(".move");
          if (!move) return 0;
          const places = parseInt(move.textContent.replace(/[^0-9 ]/g, ""));
          return move.classList.contains("up") ? places : -places;
        })""",
    )
    assert shifts == moves
    assert any(moves)
    shown.keep("playground-two-models")
    assert serious(page) == []
