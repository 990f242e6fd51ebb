"""`marmot consume`: what a consumer needs, opened and closed, and how it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass

from cache.timeline import Event
from cache.url import without_password
from service.consumer import Consumer
from service.consumer_metrics import ConsumerMetrics
from service.errors import StartError, StreamAway
from service.house import open_model, open_store
from service.logging import configure_logging, log
from service.recorder import Recorder
from service.settings import Settings
from service.stream import EventStream, Lag
from service.timings import Timings

LOOKS_EVERY_S = 2.0
TELLS_EVERY = 15  # looks


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a consumer did until it was stopped, and what it left (None: nobody knows)."""

    entries: int
    outcomes: dict[str, int]
    waiting: int | None
    pending: int | None


async def consume(
    settings: Settings,
    url: str,
    *,
    group: str,
    consumer: str | None = None,
    batch: int = 500,
    claim_after_s: float = 60.0,
    until_empty: bool = False,
) -> Consumed:
    """Stores the events of a stream until SIGTERM or SIGINT, or until none is left."""
    configure_logging(form=settings.log_format, level=settings.log_level)
    name = consumer or f"{socket.gethostname()}-{os.getpid()}"
    stream, metrics = EventStream(url, group=group, consumer=name), ConsumerMetrics()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stream.close)
        model = open_model(settings, stack)
        cache = await open_store(settings, model)
        stack.push_async_callback(cache.close)
        recorder = Recorder(
            cache, deadline_s=settings.write_deadline_s, refresh_s=settings.refresh_s
        )

        async def write(user_id: str, events: Sequence[Event]) -> Sequence[str]:
            return (await recorder.record(model, user_id, events, Timings())).statuses

        await _open(stream)
        address = stack.enter_context(metrics.shown(settings.metrics_host, settings.metrics_port))
        server = without_password(stream.server)
        sys.stderr.write(
            f"marmot: starting to consume {stream.name} of {server} as {name} of {group}, "
            f"cache {without_password(settings.cache)}, metrics on {address}\n"
        )
        sys.stderr.flush()
        stop = asyncio.Event()
        stack.enter_context(_stops(stop.set))
        looking = asyncio.create_task(_look(stream, metrics))
        reader = Consumer(
            stream,
            write,
            metrics,
            batch=batch,
            claim_after_s=claim_after_s,
            max_future_s=settings.max_future_s,
        )
        try:
            await reader.run(stop, until_empty=until_empty)
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
        return await _farewell(stream, metrics)


async def _open(stream: EventStream) -> None:
    try:
        await stream.open()
    except StreamAway as error:
        server = without_password(stream.server)
        raise StartError(
            f"the stream {stream.name} at {server} cannot be read: {error} "
            f"`marmot doctor --cache {server}` says more"
        ) from error


async def _look(stream: EventStream, metrics: ConsumerMetrics) -> None:
    """Keeps the metrics of the lag true, and tells of it now and then."""
    looks = 0
    while True:
        lag = await _lag(stream)
        metrics.lagged(lag)
        if looks % TELLS_EVERY == 0 and lag is not None:
            log.info(
                "consuming", waiting=lag.waiting, pending=lag.pending,
                lag_s=round(lag.seconds, 3), **metrics.outcomes,
            )  # fmt: skip
        looks += 1
        await asyncio.sleep(LOOKS_EVERY_S)


async def _lag(stream: EventStream) -> Lag | None:
    try:
        return await stream.lag()
    except StreamAway:
        return None


async def _farewell(stream: EventStream, metrics: ConsumerMetrics) -> Consumed:
    with suppress(StreamAway):  # then the name stays, and what is pending under it
        await stream.leave()
    lag = await _lag(stream)
    return Consumed(
        metrics.outcomes.total(),
        dict(sorted(metrics.outcomes.items())),
        None if lag is None else lag.waiting,
        None if lag is None else lag.pending,
    )


@contextmanager
def _stops(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT finish what is in hand instead of ending the process where it is."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
