"""Vocabularies of millions take another form, and answer the same."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import vocabulary
from models.vocabulary import TextColumn, Vocabulary, texts
from service.features import Lexicon

IDS = ["-5", "007", "1", "42", "9", "a", "b", "é", "18446744073709551615"]
NAMES = [None, *[f"Item {item_id}" for item_id in IDS[1:]]]
asked = st.lists(st.sampled_from(IDS) | st.integers(-10, 50) | st.text(min_size=1), min_size=1)


def large() -> Vocabulary:
    columns = (TextColumn(pa.chunked_array([pa.array(each, pa.string())])) for each in (IDS, NAMES))
    return Vocabulary(*columns, 4)


@given(asked)
def test_the_large_form_answers_as_the_small_one(ids: list[int | str]) -> None:
    """Rows, names, and what is not known, of ids of either type."""
    small, compact = Vocabulary(IDS, NAMES, 4), large()
    wanted = [str(item_id) for item_id in ids]
    assert compact.rows(wanted).tolist() == small.rows(wanted).tolist()
    assert [compact.name(item_id) for item_id in wanted] == [small.name(i) for i in wanted]
    assert [i in compact for i in wanted] == [i in small for i in wanted]
    found, told = Lexicon(compact).look_up(ids), Lexicon(small).look_up(ids)
    assert found.rows.tolist() == told.rows.tolist()
    assert found.unknown == told.unknown


def test_ids_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them meet, and whoever else asks."""
    monkeypatch.setattr(vocabulary, "hash_of", lambda item_id: len(item_id) % 2)
    found = large()
    assert found.rows(IDS).tolist() == list(range(len(IDS)))
    assert "43" not in found
    assert "c" not in found


def test_a_large_column_reads_like_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    column = pa.chunked_array([IDS[:4], IDS[4:]], pa.string())
    assert texts(column) == IDS
    monkeypatch.setattr(vocabulary, "LARGE", 1)
    monkeypatch.setattr(vocabulary, "ITERATED", 2)
    found = texts(column)
    assert isinstance(found, TextColumn)
    assert (list(found), found[3], found[-1], found[2:5], len(found)) == (
        IDS,
        IDS[3],
        IDS[-1],
        IDS[2:5],
        len(IDS),
    )
