"""Logs of positives: negatives are asked about, and never become part of anybody's history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.bundle import load_bundle
from models.catalogue_metrics import measure_catalogue
from models.evaluate import Question
from models.events import EventTable, read_events
from models.family import FAMILIES
from models.negatives import Negatives, NotPositives, with_negatives
from models.positive_baselines import fit_positives
from models.ranking_model import RankingModel
from models.sequences import padded, pieces, sessions
from models.spec import Spec
from service.marmot import run
from tests.bundles import random_model

CLOSE = 2e-4  # of logits


def write_log(path: Path, users: int = 40, items: int = 30, seed: int = 0) -> Path:
    """Users who keep to the odd or to the even items; every row is a purchase."""
    random = np.random.default_rng(seed)
    lines = ["user_id,item_id,timestamp,buy"]
    for user in range(users):
        # Low numbers are bought more often.
        bought = (random.random(12) ** 2 * items / 2).astype(int) * 2 + user % 2
        lines += [f"u{user},{item},{1_000 * at},1" for at, item in enumerate(bought)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "events.csv")


@pytest.fixture(scope="module")
def table(log: Path) -> EventTable:
    return read_events(log)


def spec_of(family: str) -> Spec:
    depth = min(2, FAMILIES[family].most_depth)
    return Spec(
        family=family, depth=depth, window=5, width=16, heads=2, tasks=("buy",), fallback_rows=2
    )


@settings(max_examples=20)
@given(family=st.sampled_from(list(FAMILIES)), seed=st.integers(0, 99), k=st.integers(1, 3))
def test_negatives_never_enter_a_timeline(
    table: EventTable, family: str, seed: int, k: int
) -> None:
    """Events score as if no negatives had been asked about, and those as if they were alone."""
    spec = spec_of(family)
    model = random_model(spec, len(table.item_ids))
    random = np.random.default_rng(seed)
    users = random.choice(len(table.user_ids), 3, replace=False)
    batch = padded(table, pieces(table, users, table.counts, spec.receptive_field))
    visible = sessions(batch, random, 4)
    asked = Negatives.of(table, k, "popularity").beside(batch, visible, random)
    items, times = torch.from_numpy(batch.items), torch.from_numpy(batch.timestamps)
    said, ends = torch.from_numpy(batch.feedback), torch.from_numpy(asked.visible)
    targets = torch.cat([items, torch.from_numpy(asked.others)], dim=1)
    at, n = times.gather(1, ends), items.shape[1]
    with torch.no_grad():
        alone = model.forward_full(items, times, said, ends[:, :n], at[:, :n])
        both = model.forward_targets(items, times, said, targets, ends, at)
        others = model.forward_targets(items, times, said, targets[:, n:], ends[:, n:], at[:, n:])
    assert float((both[:, :n] - alone).abs().max()) <= CLOSE
    assert float((both[:, n:] - others).abs().max()) <= CLOSE
    assert set(np.unique(asked.labels[:, n:])) <= {-1, 0}
    assert set(np.unique(asked.labels[:, :n])) <= {-1, 1}


@settings(max_examples=20)
@given(family=st.sampled_from(list(FAMILIES)), seed=st.integers(0, 99))
def test_targets_as_more_events(table: EventTable, family: str, seed: int) -> None:
    """Targets score as they would if they were events after those of the timeline."""
    spec = spec_of(family)
    model = random_model(spec, len(table.item_ids), seed)
    batch = padded(table, pieces(table, np.array([0, 1]), table.counts, 10))
    items, times = torch.from_numpy(batch.items), torch.from_numpy(batch.timestamps)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(len(table.item_ids), (2, 7), generator=generator)
    ends = torch.tensor([[0, 1, 2, 3, 5, 8, 11]] * 2)
    said = torch.from_numpy(batch.feedback)
    asked = (items, times, said, targets, ends, times.gather(1, ends))
    with torch.no_grad():
        difference = model.forward_targets(*asked) - as_more_events(model, *asked)
    assert float(difference.abs().max()) <= CLOSE


def as_more_events(
    model: RankingModel,
    items: Tensor,
    times: Tensor,
    said: Tensor,
    targets: Tensor,
    ends: Tensor,
    asked_at: Tensor,
) -> Tensor:
    """Behind the timeline; none of them sees another."""
    own = torch.arange(items.shape[1]).expand_as(items)
    at = torch.cat([times, asked_at], dim=1)
    unknown = said.new_full((*targets.shape, said.shape[2]), -1)
    logits = model.forward_full(
        torch.cat([items, targets], dim=1),
        at,
        torch.cat([said, unknown], dim=1),
        torch.cat([own, ends], dim=1),
        at,
    )
    return logits[:, items.shape[1] :]


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_draws(table: EventTable, sampling: str) -> None:
    """Items are drawn as often as is said, which is what the correction takes for granted."""
    negatives = Negatives.of(table, 4, sampling)
    drawn = negatives.draw(200_000, np.random.default_rng(0))
    found = np.bincount(drawn, minlength=len(table.item_ids)) / len(drawn)
    counts = np.bincount(table.items, minlength=len(table.item_ids))
    shares = (
        counts / counts.sum() if sampling == "popularity" else np.full(len(counts), found.mean())
    )
    assert np.abs(found - shares).max() < 0.005
    assert np.abs(np.exp(negatives.log_ratio) - shares * len(shares)).max() < 1e-5
    again = negatives.draw(200_000, np.random.default_rng(0))
    assert np.array_equal(drawn, again)


def test_zeros_are_no_positives(tmp_path: Path) -> None:
    """Where a label is 0, nobody needs negatives: the task is named."""
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp,like\nu,i,1,1\nu,j,2,0\n")
    with pytest.raises(NotPositives, match="like has zeros"):
        Negatives.of(read_events(tmp_path / "e.csv"), 4)


def test_negatives_for_the_start(table: EventTable) -> None:
    """Every user keeps the events, and gets `k` zeros for each of them."""
    grown = with_negatives(table, 3, seed=1)
    assert np.array_equal(grown.counts, 4 * table.counts)
    for user in range(3):
        of = grown.user(user)
        assert (grown.labels[of, 0] == 1).sum() == table.counts[user]
        kept = grown.items[of][grown.labels[of, 0] == 1]
        assert np.array_equal(kept, table.items[table.user(user)])


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), holdout=st.sampled_from([0.1, 0.4]))
def test_catalogue_metrics(table: EventTable, seed: int, holdout: float) -> None:
    """HR@10, NDCG@10 and MRR as worked out one held-out item at a time."""
    catalogue = table.item_ids[2:]  # two items are unknown to the model
    random = np.random.default_rng(seed)
    told = {
        (user, item): float(random.integers(0, 40))  # with ties
        for user in range(len(table.user_ids))
        for item in table.item_ids
    }

    def score(question: Question) -> np.ndarray[Any, Any]:
        assert question.candidates is not None
        assert len(set(question.candidates)) == len(question.candidates)
        return np.array([[told[question.user, item]] for item in question.candidates])

    ranks = []
    starts = table.holdout_start(holdout)
    for user in range(len(table.user_ids)):
        items = [table.item_ids[item] for item in table.items[table.user(user)]]
        seen, held = set(items[: starts[user]]), set(items[starts[user] :])
        for item in held - seen:
            rest = [told[user, other] for other in catalogue if other not in seen | held]
            own = told[user, item]
            ranks.append(1 + sum(x > own for x in rest) + sum(x == own for x in rest) / 2)
    found = measure_catalogue(table, holdout, catalogue, score)["buy"]
    assert found["targets"] == len(ranks)
    assert found["users"] == len(table.user_ids)
    assert found["hr@10"] == pytest.approx(np.mean([rank <= 10 for rank in ranks]), abs=1e-6)
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-6)
    gains = [1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks]
    assert found["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-6)


def test_from_a_log_of_positives_to_figures(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training is the same for the same seed, learns who keeps to what, and every way to evaluate
    gives the same figures."""

    def call(*options: str | Path) -> Any:
        assert run([str(option) for option in (*options, "--json")]) == 0
        return json.loads(capsys.readouterr().out)

    small = ["--depth", "2", "--width", "16", "--heads", "2", "--window", "8", "--epochs", "20"]
    asked = ["train", "--events", log, *small, "--negatives", "3", "--holdout", "0.2"]
    asked += ["--negative-sampling", "popularity"]
    told = call(*asked, "--out", tmp_path / "a")
    assert call(*asked, "--out", tmp_path / "b")["fingerprint"] == told["fingerprint"]
    trained_on = load_bundle(tmp_path / "a").manifest["trained_on"]
    assert (trained_on["negatives"], trained_on["negative_sampling"]) == (3, "popularity")
    figures = told["metrics"]["buy"]
    assert figures["hr@10"] > 0.6  # ten of the 24 or so unseen items; half of them are of one kind
    options = ["evaluate", "--bundle", tmp_path / "a", "--events", log]
    for via in ("full", "cache"):
        assert call(*options, "--via", via)["metrics"]["buy"] == pytest.approx(figures, abs=0.01)
    assert call(*options, "--users", "7")["metrics"]["buy"]["users"] == 7


def test_ones_alone_teach_nothing(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without negatives a log of positives is refused, and the way out is named."""
    assert run(["train", "--events", str(log), "--out", str(tmp_path / "b")]) == 1
    assert "--negatives 4" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_compare_positives(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Popularity, factors and models side by side, by their ranks in the catalogue."""
    options = ["compare", "--events", str(log), "--depths", "1", "--negatives", "2", "--quick"]
    assert run(options) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("| model | HR@10 | NDCG@10 | MRR | parameters |")
    names = [row.split(" | ")[0] for row in rows]
    assert names == ["| popularity", "| implicit matrix factorisation", "| depth 1"]


def test_factors_find_who_keeps_to_what(table: EventTable) -> None:
    """Least squares of ones and faint zeros puts a user's own kind of item first."""
    fitted = fit_positives(table, 0.1)["implicit matrix factorisation"]
    items = np.arange(len(table.item_ids))
    is_even = np.array([int(item_id) % 2 == 0 for item_id in table.item_ids])
    for user, name in enumerate(table.user_ids[:10]):
        scores = fitted.scores(np.full(len(items), user), items)
        own = is_even == (int(name[1:]) % 2 == 0)
        assert scores[own].mean() > scores[~own].mean() + 0.1
