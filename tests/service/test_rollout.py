"""What all are to serve, as a value: every change gives one that makes sense."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Problem
from service.rollout import BadRollout, Entry, Rollout

FIRST = Rollout("v1", {"v1": Entry("one", "f1", is_rebuilt=False)})
VERSIONS = ["v1", "v2", "v3"]
versions = st.sampled_from(VERSIONS)
percents = st.one_of(st.none(), st.floats(0, 100))
changes = st.one_of(
    st.tuples(st.just("with_version"), versions, st.sampled_from(["one", "two"]), versions),
    st.tuples(st.just("activated"), versions),
    st.tuples(st.just("without"), versions),
    st.tuples(st.just("without_swept"), versions),
    st.tuples(st.just("shared"), versions, percents, percents),
)


@given(st.lists(changes, max_size=12))
def test_changes_leave_it_whole(made: list[tuple[str, ...]]) -> None:
    """The active version is loaded and has no share; shares fit; what is swept, nobody uses."""
    now = FIRST
    for name, *arguments in made:
        before = now
        with suppress(Problem):
            if name == "shared":
                version, canary, shadow = arguments
                now = now.with_share(version, canary_percent=canary, shadow_percent=shadow)  # type: ignore[arg-type]
            else:
                now = getattr(now, name)(*arguments)
        assert now.active in now.entries
        active = now.entries[now.active]
        assert (active.canary_percent, active.shadow_percent) == (0, 0)
        assert sum(entry.canary_percent for entry in now.entries.values()) <= 100
        assert not {entry.fingerprint for entry in now.entries.values()} & set(now.swept)
        assert now is before or now.encode() != before.encode()
        assert Rollout.decode(now.encode()) == now


@pytest.mark.parametrize(
    "note",
    [b"", b"{", b"[]", b"7", b'{"active": "v1"}', FIRST.encode().replace(b'"v1"', b'"v9"', 1)],
)
def test_a_note_that_is_none_is_refused(note: bytes) -> None:
    """It raises, and whoever follows stays where they are."""
    with pytest.raises(BadRollout):
        Rollout.decode(note)
