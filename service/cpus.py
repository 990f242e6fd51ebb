"""How many threads an engine may have: what this process may really use, not what the host has."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def cpus_available() -> int:
    """CPUs by affinity, or fewer if the container's quota says so; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    quota = _quota()
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def threads_for(workers: int) -> int:
    """Each worker's share."""
    return max(1, cpus_available() // workers)


def _quota() -> float | None:
    try:
        quota, period = CGROUP_V2.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota = (CGROUP_V1 / "cpu.cfs_quota_us").read_text()
        period = (CGROUP_V1 / "cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return int(quota) / int(period) if int(quota) > 0 else None
