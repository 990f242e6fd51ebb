"""Ids to vocabulary rows."""

from __future__ import annotations

import numpy as np
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
    found = LEXICON.look_up(ids)
    assert found.rows.tolist() == VOCABULARY.rows([str(item_id) for item_id in ids]).tolist()
    assert found.unknown == list(dict.fromkeys(i for i in ids if str(i) not in VOCABULARY))


def test_other_ways_to_write_a_number_are_other_items() -> None:
    """007, +5 and Arabic digits are names, not numbers."""
    found = LEXICON.look_up([7, 5, 3, 0, 10, 42, "42", 2**64 - 1])
    assert found.unknown == [7, 5, 3, 0, 10]
    assert found.rows[5] == found.rows[6] == 1
    assert found.rows[7] == len(KNOWN) - 1


@given(st.lists(st.integers(-3, 40) | st.integers(), min_size=1))
def test_numbers_lie_in_a_table_where_they_lie_close(ids: list[int]) -> None:
    """An array in place of a dictionary changes nothing but the time."""
    known = [str(number) for number in range(0, 30, 2)]
    vocabulary = Vocabulary(known, [None] * len(known), 4)
    found = Lexicon(vocabulary).look_up(ids)
    assert found.rows.tolist() == vocabulary.rows([str(number) for number in ids]).tolist()
    assert found.unknown == list(dict.fromkeys(i for i in ids if str(i) not in vocabulary))
    assert list(found.ranked(np.arange(len(ids), dtype=np.float32), None)) == ids[::-1]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1), st.booleans())
def test_the_best_come_first_and_of_equals_the_first(
    scores: list[float], are_numbers: bool
) -> None:
    ids = [place if are_numbers else f"item {place}" for place in range(len(scores))]
    found = LEXICON.look_up(ids).ranked(np.array(scores, np.float32), None)
    assert list(found) == [
        ids[place] for place in sorted(range(len(ids)), key=lambda p: -scores[p])
    ]
