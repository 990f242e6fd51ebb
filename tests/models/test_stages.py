"""Stages: trained from a ranking model, proven equal to PyTorch, grown by items nobody has met."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.additions import Additions
from models.bundle import load_bundle
from models.graph import GraphBuilder
from models.graph_weights import GraphWeights
from models.retrieval import Retrieval
from models.retrieval_bench import measure
from models.spec import Spec, SpecError
from models.stage_graphs import retrieve
from models.stage_index import build_index
from models.teacher import open_graph
from tests.bundles import ITEMS, make_bundle, make_stage, randomised
from tests.models.retrieval_feed import retrieval_feed

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("ranker") / "rank", tasks=("like",))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Forty users' events over the ranking model's items, and what the items are."""
    folder, random = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    count = 40 * 30
    events = {
        "user_id": [str(place % 40) for place in range(count)],
        "item_id": [str(item) for item in random.integers(0, len(ITEMS), count)],
        "timestamp": np.arange(count) * 600,
        "like": random.integers(0, 2, count).astype(np.int8),
    }
    items = {"item_id": ITEMS, "kind": [f"{int(i) % 2}|all" for i in ITEMS], "size": [1.5] * 60}
    pq.write_table(pa.table(events), folder / "events.parquet")
    pq.write_table(pa.table(items), folder / "items.parquet")
    return {"events": folder / "events.parquet", "items": folder / "items.parquet"}


def train(cli: Cli, stage: str, ranker: Path, log: dict[str, Path], out: Path) -> dict[str, Any]:
    code, answer, err = cli(
        "train", "--stage", stage, "--ranker", ranker, "--events", log["events"],
        "--items", log["items"], "--out", out, "--steps", "30", "--json",
    )  # fmt: skip
    assert code == 0, err
    found: dict[str, Any] = json.loads(answer)
    return found


def test_a_stage_learns_from_its_ranking_model(
    cli: Cli, ranker: Path, log: dict[str, Path], tmp_path: Path
) -> None:
    """One command each; the manifest names the records that are read, and how far both agree."""
    found = train(cli, "retrieval", ranker, log, tmp_path / "retrieval")
    assert found["reads"] == load_bundle(ranker).fingerprint
    assert found["metrics"]["agreement"]["ranker's top 10 in 300"] == 1.0
    found = train(cli, "prerank", ranker, log, tmp_path / "prerank")
    assert found["metrics"]["agreement"]["generated candidates"] == 10_000
    assert found["metrics"]["agreement"]["ranker's top 100 in 500"] > 0.5
    code, out, _ = cli("inspect", tmp_path / "prerank")
    assert code == 0
    assert load_bundle(ranker).fingerprint in out
    assert "rank.onnx" in out


def test_items_are_added_without_training(
    cli: Cli, ranker: Path, log: dict[str, Path], tmp_path: Path
) -> None:
    """A new item stands where its like stand: new checksums, the same fingerprint and scores."""
    first, second = tmp_path / "first", tmp_path / "second"
    train(cli, "retrieval", ranker, log, first)
    new = tmp_path / "new.csv"
    new.write_text("item_id,name,kind\nnew,Newcomer,0|all\n3,Known,1|all\nplain,,\n")
    code, out, err = cli(
        "items", "add", "--bundle", first, "--items", new, "--out", second, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["added"] == 2
    before, after = load_bundle(first), load_bundle(second)
    assert after.fingerprint == before.fingerprint
    assert after.manifest["files"] != before.manifest["files"]
    additions = Additions.read(second)
    assert additions is not None
    assert additions.ids == ["new", "plain"]
    requests = tmp_path / "requests.jsonl"
    request = {"user_id": "1", "candidates": ["3", "new", "nowhere"], "timestamp": 10**9}
    requests.write_text(json.dumps(request) + "\n")
    scores = {}
    for bundle in (first, second):
        code, out, err = cli(
            "score", "--bundle", bundle, "--ranker", ranker, "--events", log["events"],
            "--requests", requests,
        )  # fmt: skip
        assert code == 0, err
        scores[bundle] = json.loads(out)["scores"]["like"]
    assert scores[first][1:] == [None, None]
    assert scores[second][0] == scores[first][0]
    assert 0 < scores[second][1] < 1
    assert scores[second][2] is None


def test_the_map_finds_what_items_share() -> None:
    """Where rows hang on categories alone, a new item of a category gets that category's row."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((4, 9)).astype(np.float32)
    ids = [str(place) for place in range(4_000)]
    categories = {item: [("kind", str(int(item) % 4))] for item in ids}
    table = rows[np.arange(4_000) % 4]
    grown = Additions.fit(table, ids, categories).add(["new"], [None], {"new": [("kind", "2")]})
    assert np.abs(grown.vectors[0] - rows[2]).max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "retrieval"], "--stage retrieval takes --ranker"),
        (["--ranker", "x"], "--ranker and --steps go with --stage"),
        (["--stage", "prerank", "--ranker", "nowhere"], "no bundle at nowhere"),
    ],
)
def test_bad_usage(
    cli: Cli, log: dict[str, Path], tmp_path: Path, arguments: list[str], words: str
) -> None:
    """One sentence that names the option."""
    code, _, err = cli("train", "--events", log["events"], "--out", tmp_path / "b", *arguments)
    assert code in {1, 2}
    assert words in err


def test_wrong_bundles_are_refused(
    cli: Cli, ranker: Path, log: dict[str, Path], tmp_path: Path
) -> None:
    """A stage of a stage, items for pre-ranking, a score without or beside its ranking model."""
    prerank = make_stage(tmp_path / "prerank", ranker, "prerank")
    other = make_bundle(tmp_path / "other", tasks=("like",), seed=3)
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"user_id": 1, "candidates": [1], "timestamp": 5}\n')
    scored = ["score", "--bundle", prerank, "--events", log["events"], "--requests", requests]
    trained = ["train", "--stage", "prerank", "--events", log["events"], "--out", tmp_path / "x"]
    added = ["items", "add", "--bundle", prerank, "--out", tmp_path / "x"]
    for arguments, words in (
        ([*trained, "--ranker", prerank], "--ranker takes a ranking one"),
        ([*added, "--items", log["items"]], "only its table can grow"),
        (scored, "takes --ranker"),
        ([*scored, "--ranker", other], "reads the records of"),
        (["evaluate", "--bundle", prerank, "--events", log["events"]], "one that ranks"),
    ):
        code, _, err = cli(*arguments)
        assert code in {1, 2}
        assert words in err


def test_families_without_records_have_no_stages() -> None:
    """Retrieval and pre-ranking read a cache; where nothing is cached there is none to read."""
    with pytest.raises(SpecError, match="caches no records"):
        Spec(family="din", depth=1, stage="retrieval")
    assert Spec.from_dict(Spec(stage="prerank").to_dict()).stage == "prerank"
    assert "stage" not in Spec().to_dict()


def test_blocks_hide_nothing() -> None:
    """Over many blocks the graph finds what sorting finds, for each of a batch, seen left out."""
    random = np.random.default_rng(0)
    spec = Spec(stage="retrieval", depth=2, window=8, width=16, heads=2)
    model = randomised(Retrieval(spec, 50).eval(), 0)
    table = random.standard_normal((9_000, 17)).astype(np.float32)
    proto, _ = retrieve(GraphWeights(model), GraphBuilder(), table).build("retrieve.onnx")
    session = open_graph(proto.SerializeToString())
    seen = random.integers(0, 9_001, (3, 40))
    feed = retrieval_feed(random, seen=seen, wanted=500)
    found, users = session.run(["found", "user"], feed)
    scores = model.logits(
        torch.from_numpy(np.pad(users, ((0, 0), (0, 1)))), torch.from_numpy(table)
    ).detach()
    for row in range(3):
        left = scores[row].numpy().copy()
        left[seen[row][seen[row] > 0] - 1] = -np.inf
        assert np.array_equal(found[row], np.argsort(-left, kind="stable")[:500])


def test_an_index_is_measured() -> None:
    """It looks through as many lists as it takes to find nearly all of the exact best."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((50, 17)).astype(np.float32)
    noise = random.standard_normal((20_000, 17)).astype(np.float32)
    table = centres[np.arange(20_000) % 50] + 0.3 * noise
    index, told = build_index(table, table[::400] + 0.1)
    assert told["recall@100"] >= 0.95
    assert told["probes"] < told["lists"]
    assert index.ntotal == 20_000


def test_generated_catalogue() -> None:
    """The measured recall of the exact search is one."""
    assert measure(20_000, 100, 16)["recall@100"] == 1.0
