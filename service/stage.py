"""Whether a bundle is what it is loaded for."""

from __future__ import annotations

from models.bundle import Bundle
from service.errors import StartError


def check_stage(found: Bundle, stage: str, ranker: Bundle | None = None) -> None:
    """Raises `StartError` if a bundle is of another stage, or reads another model's records."""
    if found.spec.stage != stage:
        option = {"rank": "bundle"}.get(found.spec.stage, found.spec.stage)
        raise StartError(
            f"{found.path} is a bundle of the stage {found.spec.stage}, not {stage}: "
            f"give it as --{option}"
        )
    if ranker is not None and found.reads != ranker.fingerprint:
        raise StartError(
            f"{found.path} reads the records of {found.reads}, but {ranker.path} is "
            f"{ranker.fingerprint}: `marmot train --stage {stage} --ranker {ranker.path}` makes "
            "one that fits"
        )
    if ranker is not None and ranker.spec.search:
        raise StartError(
            f"{ranker.path} searches in long histories: the stage {stage} reads windows of records"
        )
