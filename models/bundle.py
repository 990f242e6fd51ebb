"""The folder that training hands to serving: written atomically, verified at load. No torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.signature import SIGNATURE, SignatureError, verify
from models.spec import Spec, SpecError
from models.vocabulary import Vocabulary, texts

__all__ = ["Bundle", "BundleError", "Vocabulary", "load_bundle"]

#: To be raised when the weights, the graphs' ports or the manifest come to mean something else.
FORMAT = 1
OPSET = 23
MANIFEST = "manifest.json"
#: The graph that every bundle has, and that example.npz is a feed of: candidates to scores.
RANK_FILE = "rank.onnx"
#: Where the large constants of all graphs lie, if there are any.
TABLES = "tables.bin"
#: A graph that a bundle may have besides: the rank graph with its attention as outputs.
EXPLAIN = "explain"
WEIGHTS = "weights.safetensors"
REQUIRED_FILES = (WEIGHTS, "items.parquet", "example.npz")


class BundleError(Exception):
    """A bundle that cannot be served; the message says what differs."""


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph: its dtype, and its axes by name or fixed size."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A constant of a graph that lies in `TABLES`, from the byte `offset` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Graph:
    """One ONNX file, what goes in and out of it, in order, and what it looks up in `TABLES`."""

    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `manifest` is the parsed file; the rest is what serving needs of it."""

    path: Path
    name: str
    version: str
    fingerprint: str
    spec: Spec
    graphs: Mapping[str, Graph]
    vocabulary: Vocabulary
    manifest: Mapping[str, Any] = field(repr=False)
    #: The fingerprint of the ranking model whose records a stage reads.
    reads: str | None = None

    @property
    def lineage(self) -> str | None:
        """Whose records it may borrow for a while; None: nobody's."""
        declared = self.manifest.get("lineage")
        return None if declared is None else str(declared)

    def file(self, name: str) -> Path:
        return self.path / name

    def table(self, table: Table) -> np.ndarray[Any, Any]:
        """The numbers of a table, mapped into memory: pages that processes share."""
        return np.memmap(self.path / TABLES, table.dtype, "r", table.offset, table.shape)

    def weight(self, name: str) -> bytes:
        """The numbers of one tensor of the weights."""
        return next(data for found, _, data in _tensors(self.path / WEIGHTS) if found == name)

    def example(self) -> dict[str, np.ndarray[Any, Any]]:
        """One valid feed of its first graph, as training wrote it."""
        own = self.path / f"{self.spec.graphs[0]}.npz"  # where that is not the rank graph
        file = own if own.name in self.manifest["files"] else self.path / "example.npz"
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def load_bundle(path: Path, *, key: Path | None = None) -> Bundle:
    """Reads and verifies a bundle; `BundleError` says what does not fit.

    With a public `key`, the manifest must be signed by its owner.
    """
    manifest_file = path / MANIFEST
    if not manifest_file.is_file():
        raise BundleError(f"no bundle at {path}; `marmot train --out {path}` makes one")
    try:
        written = manifest_file.read_bytes()
        if key is not None:
            verify(written, path / SIGNATURE, key)
        manifest = json.loads(written)
        if not isinstance(manifest, dict):
            raise TypeError("it is not an object")
        return _verified(path, manifest)
    except SignatureError as error:
        raise BundleError(str(error)) from error
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        detail = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{path}: the bundle cannot be read: {detail}") from error


def _verified(path: Path, manifest: dict[str, Any]) -> Bundle:
    if manifest["format"] != FORMAT:
        raise BundleError(f"{path}: bundle format {manifest['format']}, this Marmot reads {FORMAT}")
    if manifest["opset"] != OPSET:
        raise BundleError(f"{path}: opset {manifest['opset']}, this Marmot runs {OPSET}")
    files: dict[str, str] = manifest["files"]
    _check_files(path, files)
    try:
        spec = Spec.from_dict(manifest["spec"])
    except SpecError as error:
        raise BundleError(f"{path}: {error}") from error
    items = pq.read_table(path / "items.parquet")
    vocabulary = Vocabulary(
        texts(items["item_id"]),
        texts(items["name"]),
        spec.fallback_rows,
        items["category"].to_pylist() if spec.finds_first else (),
    )
    fingerprint = manifest["fingerprint"]
    found = fingerprint_of(spec, _tensors(path / WEIGHTS), vocabulary.ids)
    if found != fingerprint:
        raise BundleError(
            f"{path}: the spec is not that of these weights and items: together they give the "
            f"fingerprint {found}, the manifest says {fingerprint}"
        )
    graphs = {name: _graph(entry) for name, entry in manifest["graphs"].items()}
    for name in (*spec.graphs, *graphs):
        if name not in graphs or graphs[name].file not in files:
            raise BundleError(f"{path}: the manifest does not describe the graph {name}")
    reads = None if spec.stage == "rank" else str(manifest["reads"]["fingerprint"])
    return Bundle(
        path=path,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        fingerprint=fingerprint,
        spec=spec,
        graphs=graphs,
        vocabulary=vocabulary,
        manifest=manifest,
        reads=reads,
    )


def _check_files(path: Path, files: Mapping[str, str]) -> None:
    """Every file is there and is what the manifest says."""
    for name in (*REQUIRED_FILES, *files):
        if name not in files:
            raise BundleError(f"{path}: the manifest has no checksum for {name}")
        if Path(name).name != name:
            raise BundleError(f"{path}: {name!r} is not a file name of this bundle")
        if not (path / name).is_file():
            raise BundleError(f"{path}: {name} is missing")
    for name, expected in files.items():
        if (found := sha256_of(path / name)) != expected:
            raise BundleError(
                f"{path}: {name} has sha256 {found[:12]}…, the manifest says {expected[:12]}…"
            )


def fingerprint_of(
    spec: Spec, tensors: Iterable[tuple[str, Sequence[int], bytes]], item_ids: Sequence[str]
) -> str:
    """32 hex digits from the spec, the weights and the vocabulary: all that a record hangs on."""
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    for name, shape, data in sorted(tensors):
        digest.update(f"{name} {tuple(shape)}".encode())
        digest.update(data)
    for item_id in item_ids:
        # Ids hold no control characters: a zero byte ends each of them.
        digest.update(item_id.encode() + b"\0")
    return digest.hexdigest()[:32]


def _tensors(weights: Path) -> Iterator[tuple[str, list[int], bytes]]:
    """Name, shape and bytes of everything in a safetensors file."""
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, about in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = about["data_offsets"]
            yield name, about["shape"], data[start + first : start + end]


def _graph(entry: dict[str, Any]) -> Graph:
    def ports(values: list[dict[str, Any]]) -> tuple[Port, ...]:
        return tuple(Port(v["name"], v["dtype"], tuple(v["axes"])) for v in values)

    tables = tuple(
        Table(v["name"], v["dtype"], tuple(v["shape"]), v["offset"])
        for v in entry.get("tables", ())
    )
    return Graph(entry["file"], ports(entry["inputs"]), ports(entry["outputs"]), tables)


def check_target(path: Path) -> None:
    """Raises `BundleError` if a bundle may not be written here: something else is."""
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} exists and is no bundle; it is left as it is")


def write_bundle(path: Path, manifest: Mapping[str, Any], fill: Callable[[Path], None]) -> None:
    """Lets `fill` write the files, adds the manifest with their checksums, and renames into place.

    A bundle that was at `path` is replaced; a half-written one is never found there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        fill(draft)
        files = {file.name: sha256_of(file) for file in sorted(draft.iterdir())}
        text = json.dumps({"format": FORMAT, "opset": OPSET, **manifest, "files": files}, indent=2)
        (draft / MANIFEST).write_text(text + "\n")
        draft.chmod(0o755)
        for file in draft.iterdir():
            file.chmod(0o644)
        _swap(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
        return
    check_target(path)
    # A folder cannot replace a folder that is not empty: the old one steps aside first.
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    path.rename(aside / path.name)
    draft.rename(path)
    shutil.rmtree(aside)


def write_items(
    path: Path,
    ids: Sequence[str],
    names: Sequence[str | None],
    categories: Sequence[int] | None = None,
) -> None:
    """Writes the vocabulary: row i is item i, with its name where one is known."""
    columns = {"item_id": pa.array(ids, pa.string()), "name": pa.array(names, pa.string())}
    if categories is not None:
        columns["category"] = pa.array(categories, pa.int64())
    pq.write_table(pa.table(columns), path)


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
