"""The live page, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import Running


def test_what_happens_is_seen(service: Running, window: Callable[..., Any]) -> None:
    """Rankings, their latency, what the cache had, problems and the model, a second later."""
    shown = window(service)
    page = shown.open("/status")
    page.wait_for_selector("#live.on")
    assert "None since" in page.locator("#problems").text_content()
    for place in range(20):
        service.rank("42" if place % 4 else f"nobody-{place}", [1, 2, 3])
    service.client.post("/v1/rank", json={"user_id": "42"})
    page.wait_for_selector("#problems code")
    assert page.locator("#problems code").text_content() == "invalid-request"
    assert "answers" in page.locator("#store").text_content()
    assert page.locator("#tiles .tile").count() == 7
    assert page.locator("#latency .columns i").count() > 1
    assert {"hit", "cold"} <= set(page.locator("#cache tbody th").all_text_contents())
    fingerprint = service.house.registry.active.fingerprint
    assert fingerprint in page.locator("#models").text_content()
    page.wait_for_selector("#tiles polyline")
    page.select_option("#route", "/v1/rank")
    shown.keep("status")


def test_the_service_closes(tiny_bundle: Path, tmp_path: Path, window: Callable[..., Any]) -> None:
    """A page that watches keeps no service from closing, and says that it is not connected."""
    running = Running(bundle=tiny_bundle, cache=f"lmdb:{tmp_path}/cache")
    shown = window(running)
    page = shown.open("/status")
    shown.forgiven.append("Failed to load resource")
    running.stop()
    assert not running._thread.is_alive()
    page.wait_for_selector("#live.off")
