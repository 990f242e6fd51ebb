"""The playground, in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.auth import append_key, make_key
from tests.servers import RedisServer, Running, wait_until

ROWS = "#ranking [data-item]"


def items(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(ROWS, "rows => rows.map(row => row.dataset.item)")
    return found


def scores(page: Any) -> list[float]:
    told = "rows => rows.map(row => parseFloat(row.querySelector('.number').textContent))"
    found: list[float] = page.eval_on_selector_all(ROWS, told)
    return found


def open_user(page: Any, user_id: str) -> None:
    page.fill("#user-id", user_id)
    page.press("#user-id", "Enter")
    page.wait_for_function("id => document.body.ariaBusy !== 'true'", arg=user_id)


def test_a_newcomer_sees_a_ranking(service: Running, window: Callable[..., Any]) -> None:
    """Opening the page is enough: a user, their timeline, twenty items ranked, and what it took."""
    shown = window(service)
    page = shown.open()
    page.wait_for_selector("#timeline .event")
    assert page.locator("#users button").all_text_contents() == ["42", "a/b %"]
    assert page.locator("#timeline .event").count() == 30
    ranked = items(page)
    assert len(set(ranked)) == 20
    assert scores(page) == sorted(scores(page), reverse=True)
    assert page.locator("#ranking .name").first.text_content() == f"Item {ranked[0]}"
    assert page.locator("#answer .badge.hit").count() == 1
    assert {"cache", "queue", "run", "rest"} == {
        name.removeprefix("stage ")
        for name in page.eval_on_selector_all(".bar .stage", "all => all.map(i => i.className)")
    }
    assert "marmot" in page.locator("#model").text_content()
    shown.keep("playground")


def test_scores_are_those_of_the_service(service: Running, window: Callable[..., Any]) -> None:
    """What the table says is what /v1/rank says, also for a user whose id is awkward in a path."""
    page = window(service).open()
    for user_id in ("42", "a/b %"):
        open_user(page, user_id)
        ranked = items(page)
        moment = service.timeline(user_id.replace("/", "%2F").replace(" %", "%20%25"))["events"][0]
        said = service.rank(user_id, ranked, timestamp=moment["timestamp"] + 1)
        assert said["ranking"] == ranked
        assert scores(page) == pytest.approx(said["scores"]["like"], abs=5.1e-4)


def test_an_event_moves_the_ranking(service: Running, window: Callable[..., Any]) -> None:
    """One click stores an event; the next ranking sees it, and says what moved. Focus stays."""
    shown = window(service)
    page = shown.open()
    open_user(page, "mover")
    assert page.locator("#answer .badge.cold").count() == 1
    assert "no events yet" in page.locator("#timeline .empty").text_content()
    last = items(page)[-1]
    button = f"[data-item='{last}'] .record .yes"
    page.locator(button).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#timeline .fresh")
    page.wait_for_selector("#ranking .rail b")
    (stored,) = service.timeline("mover")["events"]
    assert (stored["item_id"], stored["feedback"]) == (last, {"like": 1})
    assert page.locator("#answer .badge.hit").count() == 1
    assert page.locator("#ranking .number small").count() > 0
    assert page.evaluate("button => document.activeElement.matches(button)", button)
    shown.keep("playground-event")


def test_beside_no_history(service: Running, window: Callable[..., Any]) -> None:
    """A second column has the scores of a user of whom nothing is known, and the places between."""
    page = window(service).open()
    open_user(page, "42")
    page.select_option("#beside", "history")
    page.wait_for_selector("td.beside")
    said = service.rank("42", items(page), history=[])["scores"]["like"]
    told = "cells => cells.map(cell => parseFloat(cell.querySelector('.number').textContent))"
    assert page.eval_on_selector_all("td.beside", told) == pytest.approx(said, abs=5.1e-4)
    page.select_option("#beside", "")
    page.wait_for_selector("td.beside", state="detached")


def test_a_moment_of_ones_own(service: Running, window: Callable[..., Any]) -> None:
    """Asked as of a time before every event, nobody has a history."""
    page = window(service).open()
    open_user(page, "42")
    page.select_option("#moment", "given")
    page.fill("#given", "2020-01-01T00:00:00")
    page.wait_for_function("() => document.querySelector('#answer b').textContent === '0'")
    page.select_option("#moment", "now")
    page.wait_for_function("() => document.querySelector('#answer b').textContent !== '0'")


def test_items_are_found_with_the_keyboard(service: Running, window: Callable[..., Any]) -> None:
    """Typing finds, arrows choose, Enter adds a candidate, Escape closes; then one is removed."""
    page = window(service).open()
    page.click("#clear")
    page.wait_for_selector("#ranking .empty")
    page.fill("#item-words", "item 5")
    page.wait_for_selector("#found-1")
    assert page.get_attribute("#item-words", "aria-expanded") == "true"
    page.press("#item-words", "ArrowDown")
    assert page.get_attribute("#item-words", "aria-activedescendant") == "found-1"
    page.press("#item-words", "Enter")
    page.wait_for_selector(ROWS)
    assert items(page) == ["50"]
    page.fill("#item-words", "no such item")
    page.wait_for_selector("#found-none")
    page.press("#item-words", "Escape")
    assert page.locator("#item-list").is_hidden()
    page.click("[data-item='50'] .drop button")
    page.wait_for_selector("#ranking .empty")
    page.click("#draw")
    page.wait_for_selector(ROWS)
    assert len(items(page)) == 20


def test_why_this_score(service: Running, window: Callable[..., Any]) -> None:
    """Each layer's attention as a strip, each event's effect as a table; both are /v1/explain's."""
    shown = window(service)
    page = shown.open()
    open_user(page, "42")
    first = items(page)[0]
    page.click(f"[data-item='{first}'] td.why button")
    page.wait_for_selector("#why .strip")
    labels = page.locator("#why .label").all_text_contents()
    assert labels == ["layer 1", "layer 2", "layer 3", "together", "effect"]
    assert page.locator("#why .cells").first.locator("rect").count() == 8  # the window
    moment = service.timeline("42")["events"][0]["timestamp"] + 1
    asked = {"user_id": "42", "candidates": [first], "timestamp": moment}
    said = service.client.post("/v1/explain", json=asked).json()
    largest = max(said["events"], key=lambda event: abs(event["effect"]["like"][0]))
    row = page.locator("#why tbody tr").first
    assert row.locator("th").text_content() == f"Item {largest['item_id']}"
    effect = row.locator(".number").first.text_content().replace("\u2212", "-")
    assert float(effect) == pytest.approx(largest["effect"]["like"][0], abs=5.1e-5)
    shown.keep("why")
    slider = page.locator("#why input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    newest = said["events"][-1]
    assert slider.get_attribute("aria-valuetext").startswith(f"Item {newest['item_id']},")
    assert f"Item {newest['item_id']}" in page.locator("#why .detail").text_content()
    page.click("#why .quiet >> text=All")
    assert page.locator("#why tbody tr").count() == len(said["events"])
    page.click("#why .quiet >> text=Close")
    assert page.locator("#why").is_hidden() or page.locator("#why *").count() == 0


@pytest.fixture
def guarded(tiny_bundle: Path, tmp_path: Path) -> Iterator[tuple[Running, str, str]]:
    """A service with keys, one that may read and rank, and one that may only rank."""
    keys = tmp_path / "keys"
    made = [make_key("page", scopes) for scopes in ("read,rank", "rank")]
    for _, key in made:
        append_key(keys, key)
    running = Running(bundle=tiny_bundle, cache=f"lmdb:{tmp_path}/cache", keys=keys)
    yield running, made[0][0], made[1][0]
    running.stop()


def test_a_key_is_asked_for(guarded: tuple[Running, str, str], window: Callable[..., Any]) -> None:
    """A wrong key is told, a right one opens; it stays in the tab and is in no address."""
    running, secret, _ = guarded
    shown = window(running)
    shown.forgiven += ["401", "403"]
    page = shown.page
    page.goto("/")
    page.wait_for_selector("dialog[open]")
    page.fill("#key-input", "marmot_wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog .problem")
    page.fill("#key-input", secret)
    page.keyboard.press("Enter")
    page.wait_for_selector("#ranking [data-item]")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert not any("marmot_" in address for address in shown.addresses)
    page.click(f"{ROWS} .record .yes >> nth=0")
    page.wait_for_selector(".problem")
    assert "lacks the scope events" in page.locator(".problem").text_content()
    assert page.locator(ROWS).count() == 20
    page.click("#key-button")
    page.wait_for_selector("dialog[open]")


def test_the_store_goes_away(
    tiny_bundle: Path, own_redis: RedisServer, window: Callable[..., Any]
) -> None:
    """Ranking goes on and says `away`; what cannot go on says why, in the service's sentence."""
    running = Running(bundle=tiny_bundle, cache=own_redis.url)
    try:
        shown = window(running)
        page = shown.open()
        shown.forgiven.append("503")
        own_redis.kill()
        wait_until(lambda: running.rank("you", [1])["cache"]["state"] == "away")
        page.click("#rank")
        page.wait_for_selector("#answer .badge.away")
        page.click(f"{ROWS} .record .yes >> nth=0")
        page.wait_for_selector(".problem")
        assert "store" in page.locator(".problem").text_content().lower()
    finally:
        running.stop()
