"""`marmot evaluate --via cache` and `--via http`: the holdout, asked for as callers ask.

A store of our own is filled with exactly the events before the split. A server that is named
by its URL gets each history along with the question, and its store is not touched.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from models.bundle import Bundle
from models.events import EventTable
from models.progress import bar
from service.backfill import fill
from service.caller import Caller
from service.errors import NotMeasured
from service.examiner import Examiner
from service.house import House, open_model, open_store
from service.logging import configure_logging
from service.schemas import Limits, parse_rank
from service.settings import Settings, read_settings
from service.timings import Timings

START_S = 60.0
STOP_S = 10.0
TIMEOUT_S = 60.0
POLL_S = 0.02

_ADDRESS = re.compile(r" on (http://\S+),")


@contextmanager
def by_cache(
    bundle: Bundle, table: EventTable, holdout: float, _url: str | None
) -> Iterator[Examiner]:
    """The ranker in this process, on a store of our own."""
    with tempfile.TemporaryDirectory(prefix="marmot-") as folder, asyncio.Runner() as runner:
        settings = read_settings(bundle=bundle.path, cache=f"lmdb:{folder}/cache")
        configure_logging(form=settings.log_format, level="warning")
        runner.run(_fill(settings, table.take(~table.is_held_out(holdout))))
        house, stack = House.of(settings), AsyncExitStack()

        def ask(body: bytes) -> dict[str, Any]:
            request = parse_rank(body, house.limits)
            return runner.run(house.ranker.rank(request, Caller(), Timings()))

        runner.run(stack.enter_async_context(house.open()))
        try:
            yield Examiner(bundle.spec, table, ask, settings.max_candidates)
        finally:
            runner.run(stack.aclose())


@contextmanager
def by_http(
    bundle: Bundle, table: EventTable, holdout: float, url: str | None
) -> Iterator[Examiner]:
    """A server of our own on a store of our own, or the one at `url`."""
    with ExitStack() as stack:
        is_inline, most = url is not None, Limits().max_candidates
        if url is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="marmot-"))
            settings = read_settings(bundle=bundle.path, cache=f"lmdb:{folder}/cache")
            asyncio.run(_fill(settings, table.take(~table.is_held_out(holdout))))
            url = stack.enter_context(_own_server(settings, Path(folder) / "log"))
            most = settings.max_candidates
        client = stack.enter_context(_client(url, is_far=is_inline))
        _check_model(client, bundle)

        def ask(body: bytes) -> dict[str, Any]:
            return _answer(client, "POST", "/v1/rank", body)

        yield Examiner(bundle.spec, table, ask, most, is_inline)


async def _fill(settings: Settings, table: EventTable) -> None:
    async with AsyncExitStack() as stack:
        model = open_model(settings, stack)
        cache = await open_store(settings, model)
        stack.push_async_callback(cache.close)
        await fill(model, cache, table, stack.enter_context(bar("filling a store")))


@contextmanager
def _own_server(settings: Settings, log: Path) -> Iterator[str]:
    """`marmot serve` on a free port, by its URL; stopped afterwards, also if we are killed."""
    program = (
        f"from service.parent import end_with; end_with({os.getpid()}); "
        "from service.marmot import main; main()"
    )
    command = [
        sys.executable, "-c", program, "serve",
        "--bundle", str(settings.bundle), "--cache", settings.cache, "--host", "127.0.0.1",
        "--port", "0", "--workers", "1", "--drain-s", "0",
    ]  # fmt: skip
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)  # noqa: S603 - our own
    try:
        yield _address(server, log)
    finally:
        server.terminate()
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    """Where a server that was just started listens, once it is ready."""
    stop = time.monotonic() + START_S
    with httpx.Client(trust_env=False) as client:  # making one takes longer than many questions
        while time.monotonic() < stop and server.poll() is None:
            found = _ADDRESS.search(log.read_text(errors="replace"))
            if found and _is_ready(client, found[1]):
                return found[1]
            time.sleep(POLL_S)
    told = log.read_text(errors="replace").strip().splitlines() or ["it did not say why"]
    raise NotMeasured(f"the server of our own did not start: {told[-1]}")


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _client(url: str, *, is_far: bool) -> httpx.Client:
    try:
        return httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=is_far)  # proxies
    except httpx.InvalidURL as error:
        raise NotMeasured(f"the server at {url} cannot be asked: {error}") from error


def _check_model(client: httpx.Client, bundle: Bundle) -> None:
    """A server with another model would be measured for this one."""
    found = _sent(client, "GET", "/health/live").headers.get("x-model-fingerprint")
    if found != bundle.fingerprint:
        raise NotMeasured(
            f"the server at {client.base_url} answers with the model {found or 'of nobody'}, "
            f"not with {bundle.fingerprint} of {bundle.path}"
        )


def _answer(client: httpx.Client, method: str, path: str, body: bytes) -> dict[str, Any]:
    answer = _sent(client, method, path, body)
    try:
        found = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        found = None
    if answer.status_code == 200 and isinstance(found, dict):
        return found
    told = found.get("detail") if isinstance(found, dict) else None
    raise NotMeasured(
        f"the server at {client.base_url} answered {answer.status_code}: {told or 'no reason'}"
    )


def _sent(
    client: httpx.Client, method: str, path: str, body: bytes | None = None
) -> httpx.Response:
    headers = {"content-type": "application/json"} if body else {}
    try:
        return client.request(method, path, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotMeasured(
            f"the server at {client.base_url} cannot be asked: {error}; `marmot serve` starts one"
        ) from error
