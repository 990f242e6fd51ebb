"""What the service really calls its metrics, their labels, and what those may say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import cache.base
from service.answers import CacheReport
from service.errors import Problem
from service.metrics import Metrics
from service.routes import (
    docs,
    events,
    explain,
    health,
    inference,
    items,
    metrics,
    models,
    playground,
    rank,
    stages,
    status,
    users,
)
from service.timings import STAGES

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
ROOMS = (
    docs, events, explain, health, inference, items, metrics, models, playground, rank, stages,
    status, users,
)  # fmt: skip


def labels_of_series() -> dict[str, set[str]]:
    """Every series that /metrics can show -> its labels."""
    collectors = Metrics()._registry._collector_to_names
    return {
        each._name + suffix: {*each._labelnames, *(("le",) if suffix == "_bucket" else ())}
        for each in collectors
        for suffix in SUFFIXES[each._type]
    }


def values_of_labels() -> dict[str, set[str]]:
    """A label -> all that it can say, for labels of few words."""
    return {
        "route": routes(),
        "problem": {problem.slug for problem in _all(Problem)},
        "state": set(get_args(get_type_hints(CacheReport)["state"])),
        "event": _store_events(),
        "stage": set(STAGES),
        "status": {str(problem.status) for problem in _all(Problem)} | {"200"},
    }


def routes() -> set[str]:
    """The templates of every path that is served."""
    return {route.path for room in ROOMS for route in room.router.routes}


def _all(kind: type[Problem]) -> Iterator[type[Problem]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all(below)


def _store_events() -> set[str]:
    """What stores report: a word in their code, since nothing else lists them."""
    files = Path(cache.base.__file__).parent.glob("*.py")
    return {
        word for file in files for word in re.findall(r'_on_event\("(\w+)"\)', file.read_text())
    }
