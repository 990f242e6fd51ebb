"""The pages as files: what they may do, and when they are there."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

FILES = sorted(file.name for file in (files("service") / "playground").iterdir())
TEXT = {name: (files("service") / "playground" / name).read_text() for name in FILES}


def test_pages_may_ask_their_own_host_only(serve: Callable[..., Any]) -> None:
    """Every page and part says so itself, and brings its kind; nothing in them is inline."""
    client = serve().client
    for path in ("/", "/status", *(f"/playground/{name}" for name in FILES)):
        answer = client.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/playground/app.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("name", FILES)
def test_no_other_host_is_named(name: str) -> None:
    """The only address in the files is the name of SVG, which nobody asks for."""
    found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", TEXT[name])
    assert set(found) <= {"http://www.w3.org/2000/svg"}
    if name.endswith(".html"):
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", TEXT[name])


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_every_module_that_is_imported_is_there(name: str) -> None:
    """And nothing makes markup out of text."""
    imported = re.findall(r'from "\./([^"]+)"', TEXT[name])
    assert set(imported) <= set(FILES)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", TEXT[name]
    )


@pytest.mark.parametrize(
    "path",
    ["/playground/", "/playground/no.js", "/playground/..%2Fapp.py", "/playground/%2Fetc%2Fpasswd"],
)
def test_nothing_else_is_handed_out(serve: Callable[..., Any], path: str) -> None:
    """404, as anywhere."""
    assert serve().client.get(path).status_code == 404


def test_switched_off(serve: Callable[..., Any]) -> None:
    """Without the playground there are no pages, and everything else is as it was."""
    client = serve(playground=False).client
    for path in ("/", "/status", "/playground/app.js"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/v1/status").status_code == 200


def test_some_users(running: Any) -> None:
    """Those who have a timeline, on each store, as many as asked for."""
    ask = running.client.get
    assert ask("/v1/users").json() == {"users": []}
    names = {"a", "a/b", "é", *map(str, range(40))}
    running.post(*({"user_id": name, "item_id": 1, "timestamp": 1} for name in names))
    assert len(ask("/v1/users").json()["users"]) == 20
    assert set(ask("/v1/users", params={"limit": 10**6}).json()["users"]) == names
    assert ask("/v1/users", params={"limit": 0}).status_code == 422
    running.client.delete("/v1/users/a%2Fb")
    assert set(ask("/v1/users?limit=100").json()["users"]) == names - {"a/b"}
