"""The world that the pages speak of, small: a bundle, events, a filled store, a running service."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from models.export import export
from models.spec import Spec
from service.marmot import run
from tests.bundles import random_model
from tests.docs.stage import Stage
from tests.servers import ROOT, RedisServer, Running, flush

NAMES = {"50": "Star Wars", "181": "Return of the Jedi", "7": "Twelve Monkeys"}
ITEMS = [str(number) for number in range(1, 1_682)]  # 1682 is the one that nobody knows
NOW_S = 893_286_639
_PURCHASES = "user_id,item_id,timestamp\n" + "".join(
    f"u{n % 20},b{n * 7 % 30},{NOW_S + n}\n" for n in range(200)
)
#: Small files that users bring, and MovieLens-1M.
FILES = {
    "purchases.csv": _PURCHASES,
    "beauty.csv": _PURCHASES,
    "new-items.csv": "item_id,name\n9001,A new one\n",
}
MOVIELENS_1M = {
    "ratings.dat": "".join(f"{n % 3}::{n}::{n % 5 + 1}::{NOW_S + n}\n" for n in range(1, 30)),
    "movies.dat": "".join(f"{n}::Film {n} (1999)::Drama|War\n" for n in range(1, 30)),
}


@pytest.fixture(scope="session")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make serve` leaves under var/: data, bundle and cache."""
    folder = tmp_path_factory.mktemp("docs") / "var"
    (folder / "data").mkdir(parents=True)
    spec = Spec(depth=2, window=8, width=16, heads=2, tasks=("like",), fallback_rows=4)
    names = [NAMES.get(item) for item in ITEMS]
    model = random_model(spec, len(ITEMS))
    export(model, ITEMS, names, folder / "bundle", trained_on={"holdout": 0.1})
    pq.write_table(_events(), folder / "data" / "events.parquet")
    pq.write_table(pa.table({"item_id": ITEMS, "name": names}), folder / "data" / "items.parquet")
    filled = run([
        "backfill", "--bundle", str(folder / "bundle"), "--cache", f"lmdb:{folder}/cache",
        "--events", str(folder / "data" / "events.parquet"),
    ])  # fmt: skip
    assert filled == 0
    return folder


def _events() -> pa.Table:
    """Thirty users of fifteen events each, the last of them a while before the pages' now."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(20, 50), 15)
    return pa.table(
        {
            "user_id": users.astype(str),
            "item_id": rng.integers(1, 400, len(users)).astype(str),
            "timestamp": NOW_S - 10_000 + rng.permutation(len(users)),
            "like": rng.integers(0, 2, len(users)),
        }
    )


@pytest.fixture
def stage(
    var: Path,
    tmp_path: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Stage]:
    """A copy of that world for one page, the user's own files in it, and a service beside it."""
    here, service = tmp_path / "here", tmp_path / "service"
    shutil.copytree(var, here / "var")
    (here / "deploy").symlink_to(ROOT / "deploy")
    for name in ("events.parquet", "items.parquet"):
        shutil.copy(var / "data" / name, here / name)
    for name, text in FILES.items():
        (here / name).write_text(text)
    with ZipFile(here / "ml-1m.zip", "w") as log:
        for name, text in MOVIELENS_1M.items():
            log.writestr(f"ml-1m/{name}", text)
    for database in range(2):
        flush(f"{redis_server.url.removesuffix('/0')}/{database}")
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "100")

    def start() -> Running:
        shutil.copytree(var, service)
        return Running(bundle=service / "bundle", cache=f"lmdb:{service}/cache")

    log = logging.getLogger()
    handlers, level = log.handlers, log.level
    stage = Stage(here, start, redis_server.url, var.parent / "kept", capfd)
    yield stage
    log.handlers, log.level = handlers, level
    structlog.reset_defaults()
    stage.close()
