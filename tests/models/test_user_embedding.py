"""Retrieval's vectors of users: what they learn, and that nobody's is as if there were none."""

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

from models.bundle import load_bundle
from models.graph import GraphBuilder
from models.graph_weights import GraphWeights, as_array
from models.known_users import KnownUsers
from models.retrieval import Retrieval
from models.spec import Spec, SpecError
from models.stage_graphs import judge, retrieve, user
from models.stage_reference import load_stage
from models.teacher import open_graph
from tests.bundles import ITEMS, make_bundle, make_stage, randomised
from tests.models.retrieval_feed import retrieval_feed

Cli = Callable[..., tuple[int, str, str]]

USERS = [f"user {number}" for number in range(24)]
SHAPE: dict[str, Any] = {"stage": "retrieval", "depth": 2, "window": 8, "width": 16, "heads": 2}
#: Everybody is shown the first items; one half of the users likes the next, the other the last.
SHOWN, FIRST_LIKED, LAST_LIKED = ITEMS[:20], ITEMS[20:24], ITEMS[40:44]
NOW = 10**9


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One without records, so that nothing is seen of events before the window."""
    folder = tmp_path_factory.mktemp("ranker")
    return make_bundle(folder / "rank", depth=1, tasks=("like",))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three events one is of an item to the user's taste; the last ones show none."""
    random = np.random.default_rng(0)
    rows: list[tuple[str, str, int, int]] = []
    for number, user_id in enumerate([*USERS, "stranger"]):
        taste = LAST_LIKED if number % 2 else FIRST_LIKED
        for place in range(30):
            is_liked = place % 3 == 0 and place < 27
            item = str(random.choice(taste if is_liked else SHOWN))
            rows.append((user_id, item if place < 29 else "0", 600 * place, int(is_liked)))
    # Of whom training must not know anything.
    rows = [row for row in rows if row[0] != "stranger" or row[2] == 600 * 29]
    names = ("user_id", "item_id", "timestamp", "like")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    file = tmp_path_factory.mktemp("log") / "events.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def test_a_taste_that_history_does_not_show(
    cli: Cli, ranker: Path, log: Path, tmp_path: Path
) -> None:
    """Who is known gets what they like; who is not, what everybody gets who saw the same."""
    trained, bundle = tmp_path / "known.parquet", tmp_path / "retrieval"
    table = pq.read_table(log)
    pq.write_table(table.filter(pa.compute.not_equal(table["user_id"], "stranger")), trained)
    code, _, err = cli(
        "train", "--stage", "retrieval", "--ranker", ranker, "--events", trained, "--out", bundle,
        "--window", "1", "--steps", "40", "--holdout", "0", "--user-embedding",
    )  # fmt: skip
    assert code == 0, err
    known = KnownUsers.read(load_bundle(bundle))
    asked = [user_id for user_id in USERS if known.row(user_id, events=1)] + ["stranger"]
    assert 20 <= len(known) == len(asked) - 1 < len(USERS)  # validation users teach nothing
    requests = tmp_path / "requests.jsonl"
    wanted = [*FIRST_LIKED, *LAST_LIKED]
    requests.write_text(
        "".join(
            json.dumps({"user_id": user_id, "candidates": wanted, "timestamp": NOW}) + "\n"
            for user_id in asked
        )
    )
    code, out, err = cli(
        "score", "--bundle", bundle, "--ranker", ranker, "--events", log, "--requests", requests
    )
    assert code == 0, err
    scores = np.array([json.loads(line)["scores"]["like"] for line in out.splitlines()])
    leans = scores[:, :4].mean(axis=1) - scores[:, 4:].mean(axis=1)
    likes_first = np.array([USERS.index(user_id) % 2 == 0 for user_id in asked[:-1]])
    assert ((leans[:-1] > leans[-1]) == likes_first).all()
    code, out, _ = cli("inspect", bundle)
    count = len(known)
    assert f"{count} x 16 x float32 = {64 * count:,} bytes, and {8 * count} of their" in out
    # The ids themselves are nowhere in it.
    assert not any(b"user 1" in file.read_bytes() for file in bundle.iterdir())


def test_nobody_s_row_changes_nothing() -> None:
    """Row 0 gives, in every graph and in PyTorch, what the same weights give without the table."""
    plain = randomised(Retrieval(Spec(**SHAPE), 50).eval(), 0)
    known = Retrieval(Spec(**SHAPE, user_embedding=True), 50, users=3).eval()
    weights = {**plain.state_dict(), "user_table": torch.randn(3, 16)}
    known.load_state_dict({**weights, "user_hashes": torch.arange(3)})
    random = np.random.default_rng(0)
    feed = retrieval_feed(random, seen=np.zeros((3, 0), np.int64), wanted=50)
    feed["candidates"] = random.integers(0, 50, (3, 9))
    table = as_array(plain.table)
    for build in (
        lambda model: retrieve(GraphWeights(model), GraphBuilder(), table).build("retrieve.onnx"),
        lambda model: judge(GraphWeights(model), GraphBuilder(), table).build("rank.onnx"),
        lambda model: user(GraphWeights(model), GraphBuilder()).build("retrieve.onnx"),
    ):
        ran = {}
        for model, rows in ((plain, (0, 0, 0)), (known, (0, 0, 0)), (known, (0, 3, 1))):
            proto, graph = build(model)
            session = open_graph(proto.SerializeToString())
            given = {**feed, "user_row": np.array(rows)}
            ports = {port.name: given[port.name] for port in graph.inputs}
            ran[model, rows] = session.run(None, ports)[0]
        without, nobodys, theirs = ran.values()
        assert np.array_equal(without, nobodys)
        assert np.abs(theirs[0] - nobodys[0]).max() <= 1e-6  # whoever is in the batch
        assert (np.abs(theirs[1:] - nobodys[1:]).reshape(2, -1).max(axis=1) > 1e-3).all()


def test_bundles_without_are_what_they_were(ranker: Path, tmp_path: Path) -> None:
    """No field, no weight and no input of users where nobody asked for them."""
    bundle = load_bundle(make_stage(tmp_path / "plain", ranker, "retrieval"))
    assert "user_embedding" not in bundle.manifest["spec"]
    assert not any("user" in name for name in load_stage(bundle).state_dict())
    assert {p.name for g in bundle.graphs.values() for p in g.inputs}.isdisjoint({"user_row"})


def test_items_are_added_beside_users(cli: Cli, ranker: Path, tmp_path: Path) -> None:
    """`marmot items add` keeps the users and their vectors."""
    first = make_stage(tmp_path / "first", ranker, "retrieval", users=USERS)
    new = tmp_path / "new.csv"
    new.write_text("item_id,kind\nnew,1\n")
    code, _, err = cli("items", "add", "--bundle", first, "--items", new, "--out", tmp_path / "s")
    assert code == 0, err
    before, after = load_bundle(first), load_bundle(tmp_path / "s")
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(KnownUsers.read(after).hashes, KnownUsers.read(before).hashes)
    assert torch.equal(load_stage(after).user_table, load_stage(before).user_table)  # type: ignore[union-attr,arg-type]
    assert "user_row" in after.example()


def test_only_retrieval_knows_users(cli: Cli, ranker: Path, log: Path, tmp_path: Path) -> None:
    """Elsewhere the option is refused with one sentence."""
    for options in ([], ["--stage", "prerank", "--ranker", ranker]):
        code, _, err = cli(
            "train", "--events", log, "--out", tmp_path / "b", "--user-embedding", *options
        )
        assert code == 2
        assert "--user-embedding goes with --stage retrieval" in err
        assert not (tmp_path / "b").exists()
    with pytest.raises(SpecError, match="only retrieval has a user embedding"):
        Spec(user_embedding=True)


def test_rows_of_users() -> None:
    """Each known one has a row of its own, from 1 on; others, and those without events, have 0."""
    known = KnownUsers.of([*USERS, *USERS])
    rows = [known.row(user_id, events=7) for user_id in USERS]
    assert sorted(rows) == list(range(1, len(USERS) + 1))
    assert known.row("stranger", events=7) == 0
    assert known.row(USERS[0], events=0) == 0
    assert KnownUsers.of([]).row(USERS[0], events=7) == 0
