"""Processes and sockets: how the service is run, and the store filled, from the command line."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.base import Cache
from cache.url import without_password
from service.auth import is_loopback
from service.backfill import Backfilled, backfill
from service.cpus import threads_for
from service.errors import StartError, StoreAway, UsageError
from service.handout import Exported, export_state
from service.registry import Model
from service.settings import Settings

if TYPE_CHECKING:
    from models.fleet import On

BACKFILL_TIMEOUT_MS = 30_000.0
WORKER_STARTS_WITHIN_S = 15
"""A worker that is still importing cannot answer its supervisor, who would replace it for ever. Not
longer: one that dies while it is asked is missed for as long."""
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


def run_service(settings: Settings) -> None:
    """Serves until told to stop."""
    from service.logging import configure_logging  # noqa: PLC0415

    if settings.keys is None and not settings.no_keys and not is_loopback(settings.host):
        raise UsageError(
            f"without keys anybody could reach {settings.host}: give --keys FILE "
            "(`marmot key` makes them), or --no-keys to open it to all"
        )
    configure_logging(form=settings.log_format, level=settings.log_level)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _bound(settings) as listener:
        host, port = listener.getsockname()[:2]
        _say(settings, host, port)
        if settings.workers == 1:
            _run_one(settings, listener)
        else:
            _run_many(settings, listener)


def _run_one(settings: Settings, listener: socket.socket) -> None:
    from uvicorn import Server  # noqa: PLC0415

    from service.app import create_app  # noqa: PLC0415

    logging.getLogger("uvicorn.error").addFilter(_is_news)
    app = create_app(settings)
    server = Server(_config(app, settings))
    try:
        server.run(sockets=[listener])
    except SystemExit as stop:
        if stop.code:
            raise app.house.start_error or StartError("the service did not start") from stop
        raise


def _run_many(settings: Settings, listener: socket.socket) -> None:
    from uvicorn.config import STARTUP_FAILURE  # noqa: PLC0415
    from uvicorn.supervisors import Multiprocess  # noqa: PLC0415

    _check_first(settings)
    folder = Path(tempfile.mkdtemp(prefix="marmot-metrics-"))
    os.environ[MULTIPROCESS_DIR] = str(folder)
    try:
        settings = settings.model_copy(update={"worker_metrics_dir": folder})
        from service.worker import create_worker  # noqa: PLC0415

        config = _config(partial(create_worker, settings), settings, factory=True)
        supervisor = Multiprocess(config, sockets=[listener])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise StartError("a worker could not start; it says why above")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_first(settings: Settings) -> None:
    """What every worker would stumble over is told once, before there are any."""
    import asyncio  # noqa: PLC0415

    from service.house import House  # noqa: PLC0415

    async def check() -> None:
        # Each worker follows the rollout by itself.
        async with House.of(settings.model_copy(update={"models_dir": None})).open():
            pass

    asyncio.run(check())


def _config(app: Any, settings: Settings, *, factory: bool = False) -> Any:
    from uvicorn import Config  # noqa: PLC0415

    from service.wire import Wire  # noqa: PLC0415

    return Config(
        app,
        factory=factory,
        workers=settings.workers,
        loop="uvloop",
        http=Wire,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        proxy_headers=settings.access_log,  # nothing else looks at who calls
        timeout_keep_alive=75,
        timeout_graceful_shutdown=30,
        timeout_worker_healthcheck=WORKER_STARTS_WITHIN_S,
    )


@contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    """The listening socket, bound before anything is opened: a taken port is told at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}"
            ) from error
        listener.set_inheritable(True)
        yield listener


def _say(settings: Settings, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    threads = settings.threads or threads_for(settings.workers)
    sys.stderr.write(
        f"marmot: starting {settings.bundle} on http://{shown}:{port}, "
        f"{settings.workers} worker(s) with {threads} engine thread(s) each "
        f"on {settings.provider}, cache {without_password(settings.cache)}\n"
    )
    sys.stderr.flush()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether uvicorn says something that we do not say better."""
    return not record.getMessage().startswith(("Application startup failed", "marmot: "))


async def fill_store(settings: Settings, events: Path) -> Backfilled:
    """Opens what a backfill needs, and runs it with a progress bar."""
    async with _offline(settings, "backfill") as (model, cache, advance):
        try:
            return await backfill(model, cache, events, advance)
        except* StoreAway as error:
            raise _not_filled(settings) from error


def fill_store_in_parts(
    settings: Settings, events: Path, *, on: On, resume: Path | None
) -> Backfilled:
    """The same on Ray, or going on where it ended."""
    from service.backfill_parts import backfill_parts  # noqa: PLC0415
    from service.logging import configure_logging  # noqa: PLC0415

    configure_logging(form=settings.log_format, level=settings.log_level)
    patient = settings.model_copy(update={"store_timeout_ms": BACKFILL_TIMEOUT_MS})
    try:
        return backfill_parts(patient, events, on=on, resume=resume)
    except StoreAway as error:
        raise _not_filled(settings) from error


def _not_filled(settings: Settings) -> StartError:
    url = without_password(settings.cache)
    return StartError(
        f"the store at {url} is not reachable, and what it has of the file is less than "
        f"all; `marmot doctor --cache {url}` says more, and a backfill may be repeated"
    )


async def write_state(settings: Settings, out: Path) -> Exported:
    """Opens what an export needs, and runs it with a progress bar."""
    async with _offline(settings, "users") as (model, cache, advance):
        return await export_state(model, cache, out, lambda done: advance(done, 0))


@asynccontextmanager
async def _offline(
    settings: Settings, what: str
) -> AsyncIterator[tuple[Model, Cache, Callable[[int, int], None]]]:
    """The settings' model and store, and what moves a bar on stderr."""
    from models.progress import bar  # noqa: PLC0415
    from service.house import open_model, open_store  # noqa: PLC0415
    from service.logging import configure_logging  # noqa: PLC0415

    configure_logging(form=settings.log_format, level=settings.log_level)
    async with AsyncExitStack() as stack:
        model = open_model(settings, stack)
        # Nobody waits for an answer here, and a long timeline takes a store its time.
        patient = settings.model_copy(update={"store_timeout_ms": BACKFILL_TIMEOUT_MS})
        cache = await open_store(patient, model)
        stack.push_async_callback(cache.close)
        yield model, cache, stack.enter_context(bar(what))
