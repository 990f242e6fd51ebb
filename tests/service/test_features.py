"""Ids to vocabulary rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.bundle import Vocabulary
from service.features import Lexicon

KNOWN = ["1", "42", "007", "-5", "+5", "a", "٣", "-0", "1_0", "18446744073709551615"]
VOCABULARY = Vocabulary(KNOWN, [None] * len(KNOWN), 4)
LEXICON = Lexicon(VOCABULARY)


@given(st.lists(st.integers(-10, 100) | st.sampled_from(KNOWN) | st.text(min_size=1), min_size=1))
def test_a_number_is_the_item_that_is_written_like_it(ids: list[int | str]) -> None:
    """Rows are those of the ids' text, whichever type they came in."""
    rows, unknown = LEXICON.rows(ids)
    assert rows.tolist() == VOCABULARY.rows([str(item_id) for item_id in ids]).tolist()
    assert unknown == list(dict.fromkeys(i for i in ids if str(i) not in VOCABULARY))


def test_other_ways_to_write_a_number_are_other_items() -> None:
    """007, +5 and Arabic digits are names, not numbers."""
    rows, unknown = LEXICON.rows([7, 5, 3, 0, 10, 42, "42", 2**64 - 1])
    assert unknown == [7, 5, 3, 0, 10]
    assert rows[5] == rows[6] == 1
    assert rows[7] == len(KNOWN) - 1
