"""Keys: who is let in, for what, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.auth import Allowance, Guard, Scope, append_key, is_loopback, make_key, read_keys
from service.errors import UsageError
from tests import plain
from tests.servers import is_up

RANK = {"user_id": "u", "candidates": [1]}
EVENTS = {"events": [{"user_id": "u", "item_id": 1, "timestamp": 1}]}
INFER = {
    "inputs": [
        {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u"]},
        {"name": "candidates", "datatype": "INT64", "shape": [1], "data": [1]},
    ]
}
#: Every kind of request, and the scope that it takes; None is open to all.
ASKED: list[tuple[str, str, Any, str | None]] = [
    ("POST", "/v1/rank", RANK, "rank"),
    ("POST", "/v1/rank:batch", {"requests": [RANK]}, "rank"),
    ("POST", "/v2/models/{model}/infer", INFER, "rank"),
    ("GET", "/v2", None, "rank"),
    ("GET", "/v2/models/{model}", None, "rank"),
    ("POST", "/v1/events", EVENTS, "events"),
    ("GET", "/v1/users/u/timeline", None, "read"),
    ("GET", "/metrics", None, "read"),
    ("GET", "/openapi.json", None, "read"),
    ("GET", "/docs", None, "read"),
    ("GET", "/v1/users", None, "read"),
    ("GET", "/v1/items", None, "read"),
    ("GET", "/v1/status", None, "read"),
    ("GET", "/no/such/path", None, "read"),
    ("GET", "/v1/models", None, "read"),
    ("POST", "/v1/models", {"bundle": "b"}, "admin"),
    ("POST", "/v1/models/v/activate", None, "admin"),
    ("DELETE", "/v1/models/v", None, "admin"),
    ("DELETE", "/v1/users/u", None, "admin"),
    ("GET", "/", None, None),
    ("GET", "/status", None, None),
    ("GET", "/playground/app.js", None, None),
    ("GET", "/health/live", None, None),
    ("GET", "/health/ready", None, None),
    ("GET", "/v2/health/ready", None, None),
]


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def add_key(file: Path, scopes: str, rps: float | None = None) -> str:
    secret, key = make_key("caller", scopes, rps)
    append_key(file, key)
    return secret


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def secrets(keys: Path) -> dict[str, str]:
    """A key for each scope."""
    return {scope: add_key(keys, scope) for scope in Scope}


@pytest.fixture
def ask(serve: Callable[..., Any], keys: Path, secrets: dict[str, str]) -> Iterator[Any]:
    """Asks a service with keys."""
    running = serve(keys=keys)
    name = running.house.registry.active.bundle.name

    def ask(method: str, path: str, body: Any = None, secret: str = "") -> httpx.Response:
        headers = bearer(secret) if secret else {}
        path = path.replace("{model}", name)
        answer: httpx.Response = running.client.request(method, path, json=body, headers=headers)
        return answer

    return ask


def test_every_request_takes_its_scope(ask: Any, secrets: dict[str, str]) -> None:
    """No key is 401, an unknown one too, one for other things 403; health and pages are open."""
    for method, path, body, scope in ASKED:
        for held in (None, "unknown", *Scope):
            answer = ask(method, path, body, secrets.get(held, held) if held else "")
            if scope is None or held == scope:
                assert answer.status_code in {200, 204, 404}, (path, held, answer.text)
                continue
            assert answer.status_code == (403 if held in secrets else 401), (path, held)
            assert answer.headers["x-request-id"]
            if held not in secrets:
                assert answer.headers["www-authenticate"].startswith("Bearer")
            if path.startswith("/v2"):
                assert set(answer.json()) == {"error"}
            else:
                assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_refused_is_not_done(ask: Any, secrets: dict[str, str]) -> None:
    """An event without its scope is not stored, and nobody is forgotten by a key that may read."""
    assert ask("POST", "/v1/events", EVENTS, secrets["rank"]).status_code == 403
    path = "/v1/users/u/timeline"
    assert ask("GET", path, None, secrets["read"]).json()["events"] == []
    assert ask("POST", "/v1/events", EVENTS, secrets["events"]).status_code == 200
    assert ask("DELETE", "/v1/users/u", None, secrets["events"]).status_code == 403
    assert len(ask("GET", path, None, secrets["read"]).json()["events"]) == 1


def test_a_refused_body_leaves_the_connection_usable(ask: Any, secrets: dict[str, str]) -> None:
    """A large body without a key is not kept, and the next request is answered."""
    large = {"user_id": "x" * 900_000, "candidates": [1]}
    assert ask("POST", "/v1/rank", large).status_code == 401
    assert ask("POST", "/v1/rank", RANK, secrets["rank"]).status_code == 200


def test_keys_can_be_changed_without_a_gap(
    serve: Callable[..., Any], keys: Path, until: Callable[..., Any]
) -> None:
    """Two keys at once; a changed file counts within a second or so, a broken one not at all."""
    old = add_key(keys, "rank")
    running = serve(keys=keys)

    def status(secret: str) -> int:
        answer = running.client.post("/v1/rank", json=RANK, headers=bearer(secret))
        return int(answer.status_code)

    assert status(old) == 200
    new = add_key(keys, "rank")
    until(lambda: status(new) == 200)
    assert status(old) == 200
    keys.write_text(keys.read_text().splitlines()[1])
    until(lambda: status(old) == 401)
    stays = repr(running.house.guard)
    keys.write_text("not a key\n")
    running.house.guard._looked_s -= 60
    assert status(new) == 200
    assert repr(running.house.guard) == stays


def test_a_key_has_its_own_rate(serve: Callable[..., Any], keys: Path) -> None:
    """Over it 429 with Retry-After; another key is not touched, and health is open to all."""
    slow, fast = add_key(keys, "rank", rps=0.001), add_key(keys, "rank")
    running = serve(keys=keys)

    def answer(secret: str) -> httpx.Response:
        got: httpx.Response = running.client.post("/v1/rank", json=RANK, headers=bearer(secret))
        return got

    assert answer(slow).status_code == 200
    refused = answer(slow)
    assert refused.status_code == 429
    assert refused.json()["type"] == "/problems/rate-limited"
    assert 900 <= int(refused.headers["retry-after"]) <= 1_000
    assert [answer(fast).status_code for _ in range(5)] == [200] * 5


def test_an_allowance_by_the_clock() -> None:
    """A second's worth at once, then one at each interval; what was not used does not add up."""
    allowance = Allowance(4.0)
    assert [allowance.take(100.0) for _ in range(5)] == [0, 0, 0, 0, pytest.approx(0.25)]
    assert allowance.take(100.25) == 0
    assert allowance.take(100.25) > 0
    assert [allowance.take(500.0) > 0 for _ in range(5)] == [False] * 4 + [True]


def test_metrics_may_be_open(serve: Callable[..., Any], keys: Path) -> None:
    """A scraper without a key, where the settings say so."""
    add_key(keys, "rank")
    running = serve(keys=keys, open_metrics=True)
    assert running.client.get("/metrics").status_code == 200
    assert running.client.get("/docs").status_code == 401


def test_a_key_is_stored_as_a_hash(keys: Path) -> None:
    """The file holds no secret, only its owner reads it, and a line is read back as it was."""
    secret, key = make_key("shop", "rank,events", 2.5)
    append_key(keys, key)
    assert secret not in keys.read_text()
    assert keys.stat().st_mode & 0o077 == 0
    keys.write_text(f"# ours\n\n{keys.read_text().strip()}  # the shop's")
    append_key(keys, make_key("other", "admin")[1])
    assert read_keys(keys)[0] == key
    assert [found.name for found in read_keys(keys)] == ["shop", "other"]
    assert len({make_key("k", "rank")[0] for _ in range(100)}) == 100


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "line", ["", "shop rank", f"shop all {HASH}", f"shop rank {HASH} rps=.", f"shop rank {HASH}0"]
)
def test_a_keys_file_that_is_none(keys: Path, line: str) -> None:
    """Refused in a sentence that names the file, and exit code 2."""
    keys.write_text(line)
    with pytest.raises(UsageError, match=str(keys)) as caught:
        Guard(keys)
    assert caught.value.exit_code == 2
    keys.unlink()
    with pytest.raises(UsageError, match="No such file"):
        Guard(keys)


def test_which_hosts_are_this_machine() -> None:
    """Only loopback addresses and localhost."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com", "")))  # noqa: S104


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_keys_only_this_machine(
    cli: Callable[..., Any], tiny_bundle: Path, tmp_path: Path, workers: str
) -> None:
    """`--host 0.0.0.0` without keys is refused in one sentence, exit code 2."""
    options = ["--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache", "--port", "0"]
    options += ["--workers", workers, "--host", "0.0.0.0"]  # noqa: S104
    code, out, err = cli("serve", *options)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "--no-keys" in err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("opened", ["keys", "no keys"])
def test_beyond_this_machine(
    marmot: Callable[..., Any], cli: Callable[..., Any], tiny_bundle: Path, tmp_path: Path,
    free_port: int, until: Any, keys: Path, opened: str,
) -> None:  # fmt: skip
    """With keys, or when told so, `marmot serve` listens everywhere; keys go before --no-keys."""
    code, out, err = cli("key", "--scopes", "rank", "--keys", keys)
    assert code == 0, err
    env = {"MARMOT_NO_KEYS": "1", **({"MARMOT_KEYS": str(keys)} if opened == "keys" else {})}
    command = marmot(
        "serve", "--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache",
        "--host", "0.0.0.0", "--port", str(free_port), **env,  # noqa: S104
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"

    until(lambda: is_up(url) or command.process.poll() is not None)
    assert plain.post(f"{url}/v1/rank", json=RANK, headers=bearer(out.strip())).status_code == 200
    bare = plain.post(f"{url}/v1/rank", json=RANK)
    assert bare.status_code == (401 if opened == "keys" else 200)


def test_the_key_command(cli: Callable[..., Any], keys: Path) -> None:
    """The secret and the line on stdout; bad scopes are exit code 2 and leave the file alone."""
    code, out, _ = cli("key", "--name", "shop", "--scopes", "rank,read", "--rps", "5")
    assert code == 0
    secret, line = out.splitlines()
    keys.write_text(line + "\n")
    (key,) = read_keys(keys)
    assert (key.name, key.scopes, key.rps) == ("shop", {"rank", "read"}, 5.0)
    given = [(b"authorization", b"bearer " + secret.encode())]
    assert Guard(keys).refusal({"method": "GET", "path": "/docs", "headers": given}) is None
    before = keys.read_text()
    code, out, err = cli("key", "--scopes", "rank,all", "--keys", keys)
    assert (code, out) == (2, "")
    assert "all" in err
    assert keys.read_text() == before
