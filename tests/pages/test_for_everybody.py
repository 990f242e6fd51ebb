"""Whoever opens the pages: in the light or in the dark, on a phone, with keys alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.pages.accessible import serious
from tests.servers import Running

PHONE = {"width": 360, "height": 740}
#: What has the focus, and whether that can be seen.
HERE = """() => {
  const here = document.activeElement;
  const name = here.getAttribute("aria-label") || here.textContent.slice(0, 30);
  const isSeen = getComputedStyle(here).outlineStyle !== "none" && here.getClientRects().length > 0;
  return [here.tagName, here.id, name, isSeen].join("|");
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(service: Running, window: Callable[..., Any], scheme: str) -> None:
    """axe-core finds nothing serious, with every part of the pages open."""
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # all that differs
    shown = window(service, color_scheme=scheme)
    page = shown.open()
    page.select_option("#beside", "history")
    page.wait_for_selector("td.beside")
    page.click("td.why button >> nth=0")
    page.wait_for_selector("#why .strip")
    page.fill("#item-words", "item")
    page.wait_for_selector("#found-0")
    shown.keep(f"playground-{scheme}")
    assert serious(page, **rules) == []
    service.rank("42", [1, 2])
    page = shown.open("/status")
    page.wait_for_selector("#live.on")
    shown.keep(f"status-{scheme}")
    assert serious(page, **rules) == []


def test_on_a_phone(service: Running, window: Callable[..., Any]) -> None:
    """Nothing is wider than the screen, longer than what it shows, or too small for a finger."""
    shown = window(service, viewport=PHONE, has_touch=True)
    page = shown.open()
    page.select_option("#beside", "history")
    page.wait_for_selector("td.beside")
    page.tap("td.why button >> nth=0")
    page.wait_for_selector("#why .strip")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    ends = "document.querySelector('main').getBoundingClientRect().bottom + scrollY"
    assert page.evaluate("document.documentElement.scrollHeight") <= page.evaluate(ends) + 1
    small = "all => all.filter(e => e.offsetParent && e.offsetHeight < 24).map(e => e.outerHTML)"
    assert page.eval_on_selector_all("button, select, input:not([type=range])", small) == []
    shown.keep("playground-phone")
    page = shown.open("/status")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    shown.keep("status-phone")


def test_with_keys_alone(service: Running, window: Callable[..., Any]) -> None:
    """Tab reaches everything that can be used, in reading order, shows where it is, and goes on."""
    page = window(service, viewport={"width": 1280, "height": 900}).open()
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, button, input, select, [tabindex=\"0\"]')]"
        ".filter(e => e.offsetParent !== null).length"
    )
    walked: list[str] = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        walked.append(page.evaluate(HERE))
    assert len(set(walked)) == wanted
    assert all(step.endswith("true") for step in walked)
    assert walked[0].startswith("A||Skip to the ranking")
    page.keyboard.press("Tab")  # out of the page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id || location.hash") in {"ranking", "#ranking"}
