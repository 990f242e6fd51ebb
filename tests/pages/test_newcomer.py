"""Somebody who has just read `make serve` on the first page and opens the address it printed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from tests.pages.accessible import serious
from tests.servers import is_up, wait_until

USERS, EVENTS = 6, 20
#: From the first answer of the service; what its pages promise, on however busy a host.
SOON_S = 120.0


def fill(url: str) -> None:
    """What `make serve` does with MovieLens before it serves."""
    events = [
        {"user_id": user, "item_id": (7 * place + user) % 60, "timestamp": 1_700_000_000 + place,
         "feedback": {"like": place % 2}}
        for user in range(1, USERS + 1) for place in range(EVENTS)
    ]  # fmt: skip
    assert httpx.post(f"{url}/v1/events", json={"events": events}, timeout=60).status_code == 200


def test_two_minutes(
    marmot: Callable[..., Any],
    window: Callable[..., Any],
    tiny_bundle: Path,
    tmp_path: Path,
    free_port: int,
) -> None:
    """A ranked list, why it is so, and how the service is: in two minutes, with nothing but clicks.

    No error on the console, no request to another host, nothing serious for axe-core.
    """
    url = f"http://127.0.0.1:{free_port}"
    cache = f"lmdb:{tmp_path}/cache"
    marmot(
        "serve", "--bundle", tiny_bundle, "--cache", cache, "--port", str(free_port),
        MARMOT_WRITE_DEADLINE_S="60",
    )  # fmt: skip
    wait_until(lambda: is_up(url), within_s=120)
    fill(url)
    answering = time.monotonic()
    shown = window(SimpleNamespace(url=url))
    page = shown.open()
    page.wait_for_selector("#answer .badge.hit")
    assert page.locator("#timeline .event").count() == EVENTS
    names = page.locator("#ranking [data-item] .name").all_text_contents()
    assert len(names) == 20
    shown.keep("newcomer-1-ranked")
    page.click("td.why button >> nth=0")
    page.wait_for_selector("#why .strip")
    assert page.locator("#why h2 em").text_content() == names[0]
    page.wait_for_function("document.activeElement.id === 'why'")
    shown.keep("newcomer-2-why")
    took_s = time.monotonic() - answering
    assert serious(page) == []
    again = time.monotonic()
    page.click("nav >> text=Status")
    page.wait_for_selector("#live.on")
    page.wait_for_selector("#tiles .tile")
    assert "answers" in page.locator("#store").text_content()
    shown.keep("newcomer-3-status")
    took_s += time.monotonic() - again
    assert serious(page) == []
    assert took_s < SOON_S
