"""Bytes come back as they went in, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import codec
from cache.head import Head
from cache.timeline import Event, Mark, Timeline
from tests.cache.stores import LAYOUT, OTHER, ROW
from tests.cache.test_timeline import events

OWNER = b"us{er"
NUMBERS = {"epoch": 5, "written_at_s": 1.5, "expires_at_s": 9.5}


def _values() -> list[tuple[bytes, object]]:
    """One encoded value of each kind, and how to decode it."""
    timeline = Timeline.of([Event("a", 1), Event("b", 2)])
    rows = np.zeros(2, ROW)
    decode_rows = codec.rows_decoder(OWNER, LAYOUT)
    return [
        (codec.encode_chunk(OWNER, timeline),
         lambda value: codec.decode_chunks(OWNER, [(timeline.key(0), value)])),
        (codec.encode_rows(OWNER, LAYOUT, timeline.hashes, rows, **NUMBERS), decode_rows),
        (codec.encode_head(OWNER, Head(2, 7, True, 8.5, ("01234567",))),
         lambda value: codec.decode_head(OWNER, value)),
        (codec.encode_version(b"place", 1234567890123456),
         lambda value: codec.decode_version(b"place", value)),
    ]  # fmt: skip


@settings(max_examples=100)
@given(events)
def test_chunk_round_trip(given_events: list[Event]) -> None:
    """A chunk of events decodes to the same events."""
    timeline = Timeline.of([*given_events, Event("a", 0)])
    value = codec.encode_chunk(OWNER, timeline)
    decoded = codec.decode_chunks(OWNER, [(timeline.key(0), value)])[0]
    assert list(decoded.events()) == list(timeline.events())
    assert decoded.hashes.tolist() == timeline.hashes.tolist()


heads = st.builds(
    Head,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.floats(0, 1e12),
    st.lists(st.just("0a1b2c3d"), max_size=3).map(tuple),
)


@given(heads)
def test_head_round_trip(head: Head) -> None:
    """A head decodes to the same head."""
    assert codec.decode_head(OWNER, codec.encode_head(OWNER, head)) == head


@pytest.mark.parametrize("value", [np.uint8(3), np.float16(0.1), np.float32(0.1)])
@pytest.mark.parametrize("scale", [True, False])
def test_rows_round_trip(value: np.generic, scale: bool) -> None:
    """Rows of any type come back bit by bit."""
    fields = [("cell", value.dtype, (2, 3))] + [("scale", np.float32)] * scale
    layout = type(LAYOUT)("f" * 16, np.dtype(fields), 10)
    rows = np.zeros(2, layout.row)
    rows["cell"] = value
    hashes = np.array([4, 0], np.uint32)
    encoded = codec.encode_rows(OWNER, layout, hashes, rows, **NUMBERS)
    found = codec.rows_decoder(OWNER, layout)(encoded)
    assert np.frombuffer(found.hashes, np.uint32).tolist() == [4, 0]
    assert bytes(found.rows) == rows.tobytes()
    assert (found.epoch, found.written_at_s, found.expires_at_s) == (5, 1.5, 9.5)


def test_a_flipped_byte_is_found() -> None:
    """A change of any single byte, or a cut anywhere, never gives data."""
    for value, decode in _values():
        decode(value)
        for at in range(len(value)):
            for flip in (0x01, 0x80):
                damaged = bytes([*value[:at], value[at] ^ flip, *value[at + 1 :]])
                with pytest.raises(codec.CodecError):
                    decode(damaged)
            with pytest.raises(codec.CodecError):
                decode(value[:at])
        with pytest.raises(codec.CodecError):
            decode(value + b"\0")


def test_rows_are_believed_only_in_their_place() -> None:
    """Rows of another user, fingerprint or row type are refused."""
    value = _values()[1][0]
    wider = type(LAYOUT)(LAYOUT.fingerprint, np.dtype([*ROW.descr, ("x", np.int8)]), 100)
    named = type(LAYOUT)(
        LAYOUT.fingerprint, np.dtype([("bum", np.uint64), ("vector", np.float32, (4,))]), 100
    )
    for owner, layout in [(b"other", LAYOUT), (OWNER, OTHER), (OWNER, wider), (OWNER, named)]:
        with pytest.raises(codec.CodecError):
            codec.rows_decoder(owner, layout)(value)


def test_timelines_are_believed_only_in_their_place() -> None:
    """A chunk or head of another user, or a chunk under another bound, is refused."""
    chunk, head = _values()[0][0], _values()[2][0]
    for owner, bound in [(b"other", Event("a", 1).key), (OWNER, Event("b", 2).key)]:
        with pytest.raises(codec.CodecError):
            codec.decode_chunks(owner, [(bound, chunk)])
    with pytest.raises(codec.CodecError):
        codec.decode_head(b"other", head)


def test_ids_cannot_break_the_format() -> None:
    """An id or task with a zero byte never reaches the store."""
    for event in (Event("a\0b", 1), Event("a", 1, {"x\0": Mark(1, 1)})):
        with pytest.raises(ValueError, match="bug"):
            codec.encode_chunk(OWNER, Timeline.of([event]))
