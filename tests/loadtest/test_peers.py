"""The peers: packed users, and what each brings; test_bench.py has a race against one of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.peers.packing import packed, unpacked
from loadtest.peers.peer import HERE, PEERS

PORTS = [
    {"name": "timestamp", "dtype": "int64", "axes": ["batch"]},
    {"name": "items", "dtype": "int64", "axes": ["batch", "records"]},
    {"name": "feedback", "dtype": "int8", "axes": ["batch", "records", 2]},
    {"name": "records", "dtype": "float32", "axes": ["batch", "records", 3, 4]},
]


@given(st.integers(0, 50), st.integers(0, 2**32))
def test_a_packed_user_comes_out_as_it_went_in(records: int, seed: int) -> None:
    """Every input has its shape and its values again."""
    random = np.random.default_rng(seed)
    feed = {
        "timestamp": random.integers(0, 2**40, 1),
        "items": random.integers(0, 2**40, (1, records)),
        "feedback": random.integers(-1, 2, (1, records, 2), np.int8),
        "records": random.random((1, records, 3, 4), np.float32),
    }
    found = unpacked(packed(feed, PORTS), PORTS)
    assert found.keys() == feed.keys()
    for name, array in feed.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_no_peers(tmp_path: Path) -> None:
    """One sentence says how to get some."""
    ended = CliRunner().invoke(app, ["bench", "--peers", "--peers-dir", str(tmp_path)])
    assert ended.exit_code == 1
    assert "`make peers` installs them" in str(ended.exception)


def test_peers_have_one_user() -> None:
    """Several sizes of history are bad usage: exit code 2."""
    assert CliRunner().invoke(app, ["bench", "--peers", "--records", "5,8"]).exit_code == 2


@pytest.mark.parametrize("name", [peer.name for peer in PEERS])
def test_every_peer_is_pinned(name: str) -> None:
    """A peer has its server and its versions, each of them exact, and no place to get it from."""
    assert (HERE / name / "server.py").is_file()
    lines = (HERE / name / "requirements.txt").read_text().splitlines()
    assert any(line.startswith(f"{name}==") for line in lines)
    for line in lines:
        assert re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[0-9a-z.]+", line), line
