"""Structured logs on stderr, JSON or for eyes. No histories, no ids of items, no secrets."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol

import structlog
from rich.console import Console

log: structlog.stdlib.BoundLogger = structlog.get_logger("marmot")


class Named(Protocol):
    """A request that can say what it is called."""

    def names(self) -> dict[str, str]: ...


#: The request that is being answered; asked for its names only when something is logged.
VISIT: ContextVar[Named | None] = ContextVar("visit", default=None)


def _name_request(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    visit = VISIT.get()
    if visit is not None:
        event.update(visit.names())
    return event


def configure_logging(*, form: str, level: str) -> None:
    """Sends our logs and uvicorn's through one renderer."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_request,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        screen = Console(stderr=True)  # knows NO_COLOR
        renderer = structlog.dev.ConsoleRenderer(
            colors=screen.is_terminal and not screen.no_color,
            # The usual one shows the locals of every frame: histories, keys; and takes seconds.
            exception_formatter=structlog.dev.plain_traceback,
        )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    # Uvicorn tells of every step of its life; ours are told where they happen.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))
