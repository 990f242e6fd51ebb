"""How many events a store keeps per user: it remembers, and whoever differs is refused."""

from __future__ import annotations

from cache.errors import CacheMismatch

LEAST_KEEP = 1000


def wanted_keep(keep: int | None, least_keep: int) -> int:
    """What a store without a memory is told to keep."""
    if keep is not None and keep < least_keep:
        raise CacheMismatch(f"keep={keep} is less than the {least_keep} events the model needs.")
    return keep if keep is not None else max(LEAST_KEEP, least_keep)


def agreed_keep(remembered: bytes, keep: int | None, least_keep: int) -> int:
    """What the store keeps, if that is what the caller asked for."""
    if not remembered.isdigit() or not int(remembered):
        raise CacheMismatch("The store's memory of how many events it keeps is damaged.")
    found = int(remembered)
    if keep is not None and keep != found:
        raise CacheMismatch(f"The store keeps {found} events per user, but keep={keep} was asked.")
    if found < least_keep:
        raise CacheMismatch(
            f"The store keeps {found} events per user, but the model needs {least_keep}."
        )
    return found
