"""The trusted path refuses weights that are not those of its model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.bundle import MANIFEST, BundleError, fingerprint_of, load_bundle, sha256_of
from models.reference import load_model

Weights = dict[str, torch.Tensor]


@pytest.fixture
def other(tiny_bundle: Path, tmp_path: Path) -> Callable[[Callable[[Weights], object]], Path]:
    """A bundle that is whole but was written by a Marmot with other parameters."""

    def write(change: Callable[[Weights], object]) -> Path:
        path = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
        bundle, file = load_bundle(path), path / "weights.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file)
        content = [(name, [*w.shape], w.numpy().tobytes()) for name, w in weights.items()]
        manifest = json.loads((path / MANIFEST).read_text())
        manifest["files"][file.name] = sha256_of(file)
        manifest["fingerprint"] = fingerprint_of(bundle.spec, content, bundle.vocabulary.ids)
        (path / MANIFEST).write_text(json.dumps(manifest))
        return path

    return write


CHANGES: list[tuple[Callable[[Weights], object], str]] = [
    (lambda w: w.pop("match"), "match is missing"),
    (lambda w: w.update(colour=torch.zeros(1)), "colour is not known"),
    (
        lambda w: w.update(heads=torch.zeros(3, 16)),
        "heads is float32 (3, 16), not float32 (3, 16, 2)",
    ),
    (lambda w: w.update(lean=w["lean"].half()), "lean is float16 (3, 16, 2), not float32"),
    (lambda w: w.update(scale=w.pop("lean")), "lean is missing; scale is not known"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_other_weights(
    other: Callable[..., Path], change: Callable[[Weights], object], sentence: str
) -> None:
    """A weight that is missing, unknown or of another shape is named."""
    bundle = load_bundle(other(change))
    with pytest.raises(BundleError, match=r"weights\.safetensors does not fit") as caught:
        load_model(bundle)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_says_so_too(
    cli: Callable[..., Any], other: Callable[..., Path], tmp_path: Path
) -> None:
    """`marmot score` refuses such a bundle in that one sentence."""
    path = other(lambda weights: weights.pop("match"))
    events, requests = tmp_path / "events.csv", tmp_path / "requests.jsonl"
    events.write_text("user_id,item_id,timestamp,like,share\nu,1,1,1,0\n")
    requests.write_text('{"user_id": "u", "candidates": [1], "timestamp": 2}\n')
    options = ["--bundle", path, "--events", events, "--requests", requests]
    told = f"marmot: {path}/weights.safetensors does not fit this version of Marmot: "
    assert cli("score", *options) == (1, "", f"{told}match is missing\n")
