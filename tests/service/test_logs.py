"""What the logs say, and what they never say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.auth import append_key, make_key
from service.logging import configure_logging, log
from tests import plain
from tests.servers import is_up


def test_no_history_and_no_secret(
    marmot: Callable[..., Any], tiny_bundle: Path, tmp_path: Path, free_port: int, until: Any
) -> None:
    """At the most talkative level, failures included: no key, no user, no item, no password."""
    keys = tmp_path / "keys"
    secret, key = make_key("shop", "rank,events,read,admin")
    append_key(keys, key)
    command = marmot(
        "serve", "--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache", "--keys", keys,
        "--port", str(free_port), "--drain-s", "0", "--log-format", "json",
        MARMOT_LOG_LEVEL="debug",
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"
    event = {"user_id": "hidden-user", "item_id": "hidden-item", "timestamp": 1_000}

    until(lambda: is_up(url) or command.process.poll() is not None)
    with plain.Client(url, headers={"authorization": f"Bearer {secret}"}) as client:
        statuses = [
            client.post("/v1/events", json={"events": [event]}).status_code,
            client.post("/v1/events", json={"events": [{**event, "item_id": ""}]}).status_code,
            client.post(
                "/v1/rank", json={"user_id": "hidden-user", "candidates": ["hidden-item"]}
            ).status_code,
            client.post("/v1/rank", content=b'{"user_id": "hidden-user"').status_code,
            client.get("/v1/users/hidden-user/timeline").status_code,
            client.delete("/v1/users/hidden-user").status_code,
            client.get("/docs", headers={"authorization": "Bearer hidden-guess"}).status_code,
        ]
    assert statuses == [200, 422, 200, 422, 200, 204, 401]
    command.process.terminate()
    code, out, err = command.ends()
    assert (code, out) == (0, "")
    assert "ready" in err
    for said in ("hidden", secret, key.digest.hex()):
        assert said not in err


@pytest.mark.usefixtures("own_logs")
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """What nobody foresaw is told with its place in the code, without what was in hand there."""
    configure_logging(form=form, level="info")
    in_hand = "".join(["hid", "den"])
    try:
        raise RuntimeError("unforeseen")
    except RuntimeError:
        log.exception("failed")
    said = capsys.readouterr().err
    assert "unforeseen" in said
    assert "test_logs.py" in said
    assert in_hand not in said
