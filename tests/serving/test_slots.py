"""Ids and their slots, against a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extensions.serving.near_cache.entity_index import EntityIndex

LEAST, MOST = -(2**63), 2**63 - 1
near = st.integers(-50, 3_000)
anywhere = st.integers(LEAST, MOST) | st.sampled_from([LEAST, LEAST + 1, -1, 0, 1, MOST - 1, MOST])
batches = st.lists(st.lists(near, min_size=1, max_size=400) | st.lists(anywhere, min_size=1),
                   max_size=8)  # fmt: skip


@given(batches, st.lists(near | anywhere, max_size=50), st.integers(LEAST, MOST - 3_100))
def test_slots_are_those_that_a_dictionary_knows(
    batches: list[list[int]], others: list[int], offset: int
) -> None:
    slots, known = EntityIndex(), {}
    for batch in batches:
        moved = [one + offset if LEAST <= one + offset <= MOST else one for one in batch]
        new = [one for one in dict.fromkeys(moved) if one not in known]
        if new:
            slots.add(new, len(known) + 1)
            known |= {one: len(known) + 1 + i for i, one in enumerate(new)}
        asked = [*known, *others, *batch, *(one + 1 for one in known if one < MOST)]
        found = slots.find(np.array(asked, np.int64)).tolist()
        assert found == [known.get(one, 0) for one in asked]


def test_a_table_is_used_while_ids_lie_close_and_left_when_they_do_not() -> None:
    slots = EntityIndex()
    slots.add(range(10**12, 10**12 + 10_000), 1)
    assert slots.size < 10_000 * 8 * 3
    slots.add([5], 10_001)
    assert slots.find(np.array([5, 10**12, 10**12 + 9_999, 6])).tolist() == [10_001, 1, 10_000, 0]
    assert slots.size < 1_000_000
