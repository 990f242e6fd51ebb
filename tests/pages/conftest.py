"""A real browser on a real service; where there is no Chromium these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.servers import ROOT, Running

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Where CI looks for what the pages looked like.
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", ROOT / "var" / "screenshots"))
#: Elsewhere the driver would print colours and ask the network for nothing we need.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed after each module: while it is open, no other test may run an event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=ARGUMENTS, timeout=120_000)
        yield opened
        opened.close()


class Window:
    """A page that remembers whatever it should not have done."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(base_url=url, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.forgiven: list[str] = []
        """What may stand in an error, whenever it comes: the page goes on asking."""
        self.hosts: set[str] = set()
        self.addresses: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)

    def _heard(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def _asked(self, request: Any) -> None:
        self.hosts.add(urlsplit(request.url).netloc)
        self.addresses.append(request.url)

    def open(self, path: str = "/") -> Any:
        self.page.goto(path)
        ready = "#tiles .tile" if path == "/status" else "#ranking [data-item], #ranking .empty"
        self.page.wait_for_selector(ready)
        return self.page

    def keep(self, name: str) -> None:
        """A picture for those who look at what CI has made."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def window(browser: Any) -> Iterator[Callable[..., Window]]:
    """Opens windows; each must have stayed with its host and have had nothing to complain of."""
    opened: list[Window] = []

    def new(running: Running, **options: Any) -> Window:
        opened.append(Window(browser, running.url, **options))
        return opened[-1]

    yield new
    for each in opened:
        each.close()
    for each in opened:
        errors = [e for e in each.errors if not any(words in e for words in each.forgiven)]
        assert errors == []
        assert each.hosts <= {urlsplit(each.url).netloc}


@pytest.fixture(scope="module")
def service(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The small bundle, and a user with thirty events."""
    running = Running(bundle=tiny_bundle, cache=f"lmdb:{tmp_path_factory.mktemp('pages')}/cache")
    running.post(
        *(
            {
                "user_id": user,
                "item_id": (7 * place) % 60,
                "timestamp": 1_700_000_000 + 9_000 * place,
                "feedback": {"like": place % 2, **({"share": 1} if place % 5 == 0 else {})},
            }
            for user in ("42", "a/b %")
            for place in range(30)
        )
    )
    yield running
    running.stop()
