"""Work in parts: each is done once, in any place, and is not done again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fleet import FleetError, Journal, digest, spread


def grown(by: int, part: int) -> dict[str, int]:
    return {"grown": part + by}


@given(parts=st.lists(st.integers(0, 9)), by=st.integers(0, 9))
def test_results_are_in_the_order_of_their_parts(parts: list[int], by: int) -> None:
    """Every part is worked on with what they share, and progress ends at all of them."""
    shown: list[tuple[int, int]] = []
    found = spread(grown, by, parts, len(parts), advance=lambda *done: shown.append(done))
    assert found == [{"grown": part + by} for part in parts]
    assert shown == [(done, len(parts)) for done in range(1, len(parts) + 1)]


def test_goes_on_where_it_ended(tmp_path: Path) -> None:
    """With a journal, parts that are done stay done; the same results come back."""
    tried: list[int] = []

    def work(_shared: None, part: int) -> list[int]:
        tried.append(part)
        if part == 3 and tried.count(3) == 1:
            raise ValueError("three")
        return [part]

    def go() -> list[list[int]]:
        return spread(work, None, iter(range(5)), 5, journal=Journal(tmp_path, {"what": "this"}))

    with pytest.raises(ValueError, match="three"):
        go()
    assert go() == go() == [[0], [1], [2], [3], [4]]
    assert tried == [0, 1, 2, 3, 3, 4]


def test_other_work_is_refused(tmp_path: Path) -> None:
    """Results of other work are never taken for this one's."""
    Journal(tmp_path, {"what": "this"}).keep(0, {})
    assert Journal(tmp_path, {"what": "this"}).find(0) == {}
    with pytest.raises(FleetError, match="other work"):
        Journal(tmp_path, {"what": "that"})


def test_parts_are_taken_as_they_are_needed() -> None:
    """Not all parts lie in memory at once."""
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for part in range(3):
            taken.append(part)
            yield part

    def work(_shared: None, part: int) -> int:
        assert taken[-1] == part
        return part

    assert spread(work, None, parts(), 3) == [0, 1, 2]


def test_a_digest_is_of_what_a_file_holds(tmp_path: Path) -> None:
    """The same bytes are the same file, wherever they lie."""
    one, two, other = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    one.write_bytes(b"a" * (1 << 21))
    two.write_bytes(b"a" * (1 << 21))
    other.write_bytes(b"a" * (1 << 21) + b"b")
    assert digest(one) == digest(two) != digest(other)
