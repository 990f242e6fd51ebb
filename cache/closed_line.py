"""A connection that was closed before it was written to, in the words of the loop that runs it."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisAway

UVLOOP_SAYS = "the handler is closed"


def as_away(error: RuntimeError) -> Exception:
    """uvloop has no OSError for it, and the client passes on what it does not know."""
    return RedisAway(str(error)) if UVLOOP_SAYS in str(error) else error
