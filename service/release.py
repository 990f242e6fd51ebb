"""Which release of Marmot this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed version; "0" where it runs from a folder."""
    try:
        return version("marmot")
    except PackageNotFoundError:
        return "0"
