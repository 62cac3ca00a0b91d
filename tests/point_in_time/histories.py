"""Random logs and labels, small and full of coincidences."""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from tests.point_in_time.oracle import Label, LogRow
from tests.point_in_time.views import TTL

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class History:
    log: list[LogRow]
    labels: list[Label]


# Few moments, so that they coincide; at, just before and just after each other and the TTL.
moments = st.builds(
    lambda base, hours, ticks: base + hours * TTL + ticks * TICK,
    st.just(NOON),
    st.integers(-2, 2),
    st.integers(-1, 1),
)
text = st.text(
    alphabet=st.sampled_from(["a", "B", " ", "ü", "日", "'", '"', "\\", "{", ","]), max_size=4
)
# Pairs whose digits run together: (1, 23) and (12, 3); signs and the ends of the range.
whole = st.sampled_from([0, 1, 12, 3, 23, 123, -1, -12, 2**63 - 1, -(2**63)])
single = st.one_of(
    st.none(),
    st.floats(width=32, allow_nan=True, allow_infinity=True),
).map(lambda value: None if value is None else struct.unpack("f", struct.pack("f", value))[0])
vectors = st.one_of(
    st.none(), st.lists(single.filter(lambda v: v is not None), min_size=1, max_size=3)
)

pair_values = st.tuples(
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    single,
    st.one_of(st.none(), text),
    vectors,
)
name_values = st.tuples(
    st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    st.one_of(st.none(), st.booleans()),
)


@st.composite
def histories(
    draw: st.DrawFn,
    keys: st.SearchStrategy[Any],
    values: st.SearchStrategy[Any],
    *,
    may_repeat: bool,
) -> History:
    """``may_repeat``: the log may hold a row twice, or two of one moment that differ."""
    known_keys = draw(st.lists(keys, min_size=1, max_size=4, unique=True))
    rows = draw(
        st.lists(
            st.builds(
                LogRow,
                st.sampled_from(known_keys),
                moments,
                moments,
                values,
            ),
            max_size=12,
            unique_by=lambda row: (row.keys, row.event, row.created),
        )
    )
    if may_repeat and rows:
        rows += draw(st.lists(st.sampled_from(rows), max_size=3))
    label = st.builds(Label, st.one_of(st.sampled_from(known_keys), keys), moments)
    return History(rows, draw(st.lists(label, min_size=1, max_size=8)))
