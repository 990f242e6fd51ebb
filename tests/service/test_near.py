"""What a process remembers of users, and when it forgets them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from service.near import IDLE_S, Near


@dataclass(frozen=True)
class Value:
    size_bytes: int


def key(number: int) -> tuple[str, str]:
    return ("fingerprint", str(number))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_it_never_holds_more_than_its_budget(puts: list[tuple[int, int]]) -> None:
    """Whatever is put, the newest values within the budget are there, each as it was put last."""
    near: Near[Value] = Near(100)
    latest: dict[int, Value] = {}
    for number, size in puts:
        latest.pop(number, None)
        latest[number] = Value(size)
        near.put(key(number), latest[number], 0.0)
    held = {number: near.get(key(number), 0.0) for number in latest}
    assert sum(value.size_bytes for value in held.values() if value) <= 100
    assert all(value in (None, latest[number]) for number, value in held.items())
    if latest:
        newest = next(reversed(latest))
        assert held[newest] is latest[newest]


def test_the_least_recently_used_makes_room() -> None:
    """Being asked for counts as use."""
    near: Near[Value] = Near(2)
    near.put(key(1), Value(1), 0.0)
    near.put(key(2), Value(1), 0.0)
    assert near.get(key(1), 0.0)
    near.put(key(3), Value(1), 0.0)
    assert near.get(key(1), 0.0)
    assert near.get(key(2), 0.0) is None


def test_what_nobody_asks_for_goes() -> None:
    """A forgotten user does not linger in memory while others come."""
    near: Near[Value] = Near(10)
    near.put(key(1), Value(1), 0.0)
    near.put(key(2), Value(1), IDLE_S + 1)
    assert near.get(key(1), IDLE_S + 1) is None
    assert repr(near) == "<Near 1 kept, 1 of 10 bytes>"


def test_what_is_too_large_is_not_kept() -> None:
    """Nor does what was kept under its key stay."""
    near: Near[Value] = Near(10)
    near.put(key(1), Value(1), 0.0)
    near.put(key(1), Value(11), 0.0)
    assert near.get(key(1), 0.0) is None
