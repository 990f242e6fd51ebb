"""The bare loops: what they count, and that each answers a line with a line."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from loadtest.gemm import libraries, product
from loadtest.processes import BenchError, helper
from models.marm import History
from models.spec import Spec
from service import bare, bare_cache
from service.bare import flops_of
from tests.bundles import TINY, random_model
from tests.servers import RedisServer


@pytest.mark.parametrize("candidates", [1, 7])
@pytest.mark.parametrize("records", [1, 8])
@pytest.mark.parametrize("depth", [1, 3])
def test_flops_are_those_of_the_model(candidates: int, records: int, depth: int) -> None:
    """As many as PyTorch counts, feedback's states apart: they are looked up, not multiplied."""
    spec = Spec(**{**TINY, "depth": depth})
    history = History(
        torch.zeros(1, records, dtype=torch.int64),
        torch.zeros(1, records, dtype=torch.int64),
        torch.zeros(1, records, len(spec.tasks), dtype=torch.int8),
        torch.zeros(1, records, spec.cached_depths, spec.width),
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        asked = torch.zeros(1, candidates, dtype=torch.int64)
        random_model(spec).forward_cached(asked, torch.zeros(1, dtype=torch.int64), history)
    states = 2 * depth * records * len(spec.tasks) * 3 * 2 * spec.width
    assert counter.get_total_flops() - states == flops_of(spec, candidates, records)


def test_a_line_for_a_line(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bare loop answers with how long each run took, and what a run computes."""
    asked = json.dumps({"candidates": 5, "records": 8, "seconds": 0.01})
    bare.main(["--bundle", str(tiny_bundle)], [asked, asked])
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert min(first["took_s"] + second["took_s"]) > 0
    assert first["flops"] == second["flops"] == flops_of(Spec(**TINY), 5, 8)


@pytest.mark.parametrize("library", libraries())
def test_matrix_products(library: str) -> None:
    """Every library multiplies the same matrices."""
    left, right = np.random.default_rng(0).random((2, 64, 64), np.float32)
    assert np.allclose(np.asarray(product(library, 64)()), left @ right, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("store", ["lmdb", "redis"])
def test_the_cache_alone(
    tiny_bundle: Path,
    tmp_path: Path,
    redis_server: RedisServer,
    store: str,
    dtype: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A fetch finds all records, an append adds one; Redis says what the records weigh."""
    url = f"lmdb:{tmp_path}/lmdb" if store == "lmdb" else redis_server.url
    asked = [
        {"work": work, "dtype": dtype, "records": 40, **more}
        for work, more in (
            ("size", {}),
            ("fetch", {"seconds": 0.01}),
            ("append", {"seconds": 0.01}),
        )
    ]
    bare_cache.main(["--bundle", str(tiny_bundle), "--cache", url], map(json.dumps, asked))
    size, fetched, appended = map(json.loads, capsys.readouterr().out.splitlines())
    assert min(fetched["took_s"] + appended["took_s"]) > 0
    assert size["cached_depths"] == 2
    least = 40 * Spec(**{**TINY, "cache_dtype": dtype}).row.itemsize
    if store == "redis":
        assert least < size["record_bytes"] < 2 * least + 1000
        assert size["timeline_bytes"] > 40
    else:
        assert size["record_bytes"] is None


async def test_a_helper_that_ends() -> None:
    """Whoever waits for its answer hears that there will be none."""
    async with asyncio.timeout(60), helper("nobody", sys.executable, "-c", "") as nobody:
        with pytest.raises(BenchError, match="nobody ended"):
            await nobody.ask(anything=1)
