"""A bundle is written in one step, and refused at load when anything of it does not fit."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle import (
    MANIFEST,
    REQUIRED_FILES,
    BundleError,
    Vocabulary,
    load_bundle,
    write_bundle,
)
from tests.bundles import ITEMS, make_bundle

Manifest = dict[str, Any]


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own to spoil."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def edit(bundle: Path, change: Callable[[Manifest], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    sentence = str(caught.value)
    assert sentence.startswith(str(bundle)) or f"at {bundle}" in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_flipped_byte(copy: Path, name: str) -> None:
    """Any byte of any file: the sentence names the file and both checksums."""
    whole = (copy / name).read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        (copy / name).write_bytes(flipped)
        assert f"{name} has sha256 " in refusal(copy)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file(copy: Path, name: str) -> None:
    """A file that the manifest names and the folder lacks; or that the manifest forgets."""
    (copy / name).rename(copy / "elsewhere")
    assert f"{name} is missing" in refusal(copy)
    (copy / "elsewhere").rename(copy / name)
    edit(copy, lambda manifest: manifest["files"].pop(name))
    assert f"no checksum for {name}" in refusal(copy)


def test_a_truncated_manifest(copy: Path) -> None:
    """A manifest that was cut anywhere is no manifest."""
    whole = (copy / MANIFEST).read_bytes().rstrip()
    for end in range(0, len(whole), 97):
        (copy / MANIFEST).write_bytes(whole[:end])
        assert "cannot be read" in refusal(copy)
    (copy / MANIFEST).unlink()
    assert "no bundle at" in refusal(copy)


EDITS: list[tuple[Callable[[Manifest], object], str]] = [
    (lambda m: m.update(format=99), "bundle format 99, this Marmot reads 1"),
    (lambda m: m.update(opset=7), "opset 7, this Marmot runs 23"),
    (lambda m: m.update(fingerprint="0" * 32), "the manifest says 0000"),
    (lambda m: m.update(graphs={}), "does not describe the graph rank"),
    (lambda m: m["graphs"]["append"].update(file="../x"), "does not describe the graph append"),
    (lambda m: m["files"].update({"../x": "0"}), "'../x' is not a file name of this bundle"),
    (lambda m: m.pop("spec"), "spec is missing"),
    (lambda m: m["spec"].pop("depth"), "spec fields do not fit this version of Marmot: depth"),
    (lambda m: m["spec"].update(colour=1), "spec fields do not fit this version of Marmot: colour"),
    (lambda m: m["spec"].update(depth="3"), "depth must be a whole number, not '3'"),
    (lambda m: m["spec"].update(depth=True), "depth must be a whole number, not True"),
    (lambda m: m["spec"].update(family="hstu"), "family must be one of marm, full, stca, din,"),
    *(
        (lambda m, other=other: m["spec"].update(other), "the spec is not that of these weights")
        for other in (
            {"depth": 2}, {"window": 9}, {"width": 32}, {"heads": 4}, {"tasks": ["like"]},
            {"time_gap": False}, {"cache_dtype": "int8"}, {"fallback_rows": 5}, {"tasks": "like"},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), EDITS)
def test_a_manifest_that_does_not_fit(
    copy: Path, change: Callable[[Manifest], object], sentence: str
) -> None:
    """Another format, opset, spec or fingerprint is refused in a sentence that says which."""
    edit(copy, change)
    assert sentence in refusal(copy)


def test_another_bundles_manifest(copy: Path, tmp_path: Path) -> None:
    """Files of one training beside the manifest of another are refused."""
    other = make_bundle(tmp_path / "other", seed=5)
    shutil.copy(other / MANIFEST, copy / MANIFEST)
    assert "has sha256" in refusal(copy)


def test_everybody_may_read_it(tmp_path: Path) -> None:
    """Folder 0755 and files 0644, whatever the umask of who trained."""
    before = os.umask(0o077)
    try:
        bundle = make_bundle(tmp_path / "bundle")
    finally:
        os.umask(before)
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in bundle.iterdir()} == {0o644}


class Killed(BaseException):
    """What no handler expects."""


def test_a_half_written_bundle_is_never_found(tmp_path: Path) -> None:
    """Whoever dies while writing leaves the target as it was, and nothing beside it."""

    def fill(folder: Path) -> None:
        (folder / "rank.onnx").write_bytes(b"half")
        raise Killed

    target = tmp_path / "bundle"
    with pytest.raises(Killed):
        write_bundle(target, {}, fill)
    assert not list(tmp_path.iterdir())
    make_bundle(target)
    old = load_bundle(target).fingerprint
    with pytest.raises(Killed):
        write_bundle(target, {}, fill)
    assert load_bundle(target).fingerprint == old
    assert list(tmp_path.iterdir()) == [target]


def test_a_bundle_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Training to the same place again leaves the new bundle and nothing of the old."""
    one = load_bundle(make_bundle(tmp_path / "bundle", seed=1)).fingerprint
    assert load_bundle(make_bundle(tmp_path / "bundle", seed=2)).fingerprint != one
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    """A folder that holds something else is left as it is."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("dear")
    with pytest.raises(BundleError, match="is no bundle; it is left as it is"):
        make_bundle(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "thesis.tex").read_text() == "dear"


def test_the_fingerprint_hangs_on_the_content(tmp_path: Path) -> None:
    """The same weights give the same one, other weights or another spec do not."""
    found = [
        load_bundle(make_bundle(tmp_path / str(place), **fields)).fingerprint
        for place, fields in enumerate(
            [{}, {}, {"seed": 1}, {"window": 9}, {"cache_dtype": "int8"}]
        )
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 4
    assert all(len(one) >= 16 and int(one, 16) >= 0 and one == one.lower() for one in found)


def test_unknown_items_share_rows() -> None:
    """Ids of the vocabulary keep their row, others fall on the rows behind, always the same."""
    vocabulary = Vocabulary(ITEMS, [None] * len(ITEMS), 4)
    strange = [f"strange {number}" for number in range(200)]
    rows = vocabulary.rows([*ITEMS, *strange])
    assert rows[: len(ITEMS)].tolist() == list(range(len(ITEMS)))
    assert set(rows[len(ITEMS) :]) == set(range(len(ITEMS), len(ITEMS) + 4))
    assert vocabulary.rows(strange).tolist() == [vocabulary.row(item) for item in strange]
    assert "0" in vocabulary
    assert "00" not in vocabulary
