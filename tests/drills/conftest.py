"""Drills: a service under load on a store that misbehaves; their outcomes are one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.settings import Settings
from tests.drills.load import BACK_WITHIN_S, Load, Outcome
from tests.servers import PATIENT
from tests.service.conftest import serve

__all__ = ["serve"]  # a fixture of the service's tests, wanted here too

AS_DEPLOYED = {name: Settings.model_fields[name].default for name in PATIENT if name != "drain_s"}
OUTCOMES: list[Outcome] = []


@pytest.fixture
def serve_as_deployed(serve: Callable[..., Any]) -> Callable[..., Any]:
    """A service that waits for its store no longer than by default."""
    return lambda **options: serve(**{**AS_DEPLOYED, **options})


@pytest.fixture(params=[1.0, pytest.param(5.0, marks=pytest.mark.drill)], ids="{:.0f} s".format)
def away_s(request: pytest.FixtureRequest) -> float:
    """How long a fault lasts: a moment among the other tests, longer in `make drills`."""
    seconds: float = request.param
    return seconds


@pytest.fixture
def told() -> Callable[[Outcome], None]:
    """Puts into the table what another way of asking has found."""
    return OUTCOMES.append


@pytest.fixture
def passed() -> Callable[..., Outcome]:
    """Checks what every drill promises, and puts it into the table."""

    def check(drill: str, load: Load) -> Outcome:
        outcome = load.outcome(drill)
        OUTCOMES.append(outcome)
        assert outcome.failed == 0
        assert outcome.lost == 0
        assert all(post.status in (200, 503) for post in load.posts)
        assert all(post.has_retry_after for post in load.posts if post.status == 503)
        assert outcome.back_s is None or outcome.back_s < BACK_WITHIN_S
        return outcome

    return check


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not OUTCOMES:
        return
    head = f"{'drill':<44}{'load held':>16}{'failed':>8}{'events':>8}{'refused':>9}{'lost':>6}"
    terminalreporter.write_line(f"\n{head}{'away':>7}{'waited p99':>12}{'back after':>12}")
    for row in OUTCOMES:
        held = f"{row.ranked - row.failed - row.shed}/{row.ranked}"
        back = "-" if row.back_s is None else f"{row.back_s:.2f} s"
        terminalreporter.write_line(
            f"{row.drill:<44}{held:>16}{row.failed:>8}{row.posted:>8}{row.refused:>9}"
            f"{row.lost:>6}{row.away:>7}{row.waited_ms:>9.1f} ms{back:>12}"
        )
