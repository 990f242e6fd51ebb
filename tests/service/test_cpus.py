"""How many threads an engine may have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service import cpus


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_the_quota_of_the_container_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int
) -> None:
    """Affinity, cut by the cgroup's quota, and never less than one."""
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(cpus, "CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    assert cpus.cpus_available() == expected
    assert cpus.threads_for(2) == max(1, expected // 2)
    assert cpus.threads_for(64) == 1
