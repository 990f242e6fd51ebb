"""What one of several worker processes runs. Imported by name in each of them."""

from __future__ import annotations

from multiprocessing import parent_process
from typing import TYPE_CHECKING, cast

from service.parent import end_with
from service.settings import Settings

if TYPE_CHECKING:
    from service.doorway import Doorway


def create_worker(settings: Settings) -> Doorway:
    """The app of one worker; the parent never imports what it is made of."""
    from service.app import create_app  # noqa: PLC0415
    from service.logging import configure_logging  # noqa: PLC0415

    if parent := parent_process():
        end_with(cast("int", parent.pid))
    configure_logging(form=settings.log_format, level=settings.log_level)
    return create_app(settings)
