"""What is written by binary COPY is read back as it was: nulls, and any number of texts."""

import struct
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.database import connect
from extensions.database.binary_copy import COPIED, copy_batch

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
AWARE = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "real": st.floats(width=32, allow_nan=False),
    "double precision": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "timestamp with time zone": AWARE.map(lambda at: at.replace(tzinfo=UTC)),
    "timestamp without time zone": AWARE,
    "date": st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    "bytea": st.binary(max_size=20),
    "text": TEXT,
    "character varying": TEXT,
}
ELEMENTS = {kind: COPIED[kind] for kind in VALUES if kind != "character varying"}
for kind in ELEMENTS:
    VALUES[f"{kind}[]"] = st.lists(st.none() | VALUES[kind], max_size=4)
VALUES["uuid"], VALUES["uuid[]"] = st.uuids(), st.lists(st.none() | st.uuids(), max_size=3)
ARROW = {
    **COPIED,
    **{f"{kind}[]": pa.list_(element) for kind, element in ELEMENTS.items()},
    "uuid": pa.uuid(),
    "uuid[]": pa.list_(pa.uuid()),
}
TYPES = list(VALUES)
COLUMNS = [f"c{number}" for number in range(len(TYPES))]


@pytest.fixture(scope="module")
def conn(database: str) -> Any:
    assert COPIED.keys() < VALUES.keys()
    with connect(database, autocommit=True) as made:
        columns = ", ".join(f"{n} {t}" for n, t in zip(COLUMNS, TYPES, strict=True))
        made.execute(f"CREATE TEMP TABLE copied (place bigint, {columns})")
        yield made


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*(st.none() | VALUES[kind] for kind in TYPES)), max_size=12),
    nulls=st.booleans(),
)
def test_what_is_copied_is_read_back(
    conn: psycopg.Connection, rows: list[tuple[Any, ...]], nulls: bool
) -> None:
    if not nulls:
        rows = [row for row in rows if None not in row]
    batch = pa.record_batch(
        [pa.array(range(len(rows)), pa.int64())]
        + [_arrow([row[i] for row in rows], kind) for i, kind in enumerate(TYPES)],
        names=["place", *COLUMNS],
    )
    # A slice of a longer batch has an offset of its own.
    longer = pa.Table.from_batches([batch, batch]).combine_chunks().to_batches()
    part = longer[0].slice(len(rows)) if longer else batch
    for each in (batch, part):
        conn.execute("TRUNCATE copied")
        copy_batch(conn, "copied", each, each.schema.names)
        # PostgreSQL writes a real as the shortest text, which is another double.
        wanted = [
            f"{name}::{kind.replace('real', 'double precision')}"
            for name, kind in zip(COLUMNS, TYPES, strict=True)
        ]
        found = conn.execute(f"SELECT {', '.join(wanted)} FROM copied ORDER BY place").fetchall()
        assert [tuple(map(_bits, row)) for row in found] == [tuple(map(_bits, row)) for row in rows]


def test_booleans_of_bytes_are_booleans(conn: psycopg.Connection) -> None:
    """As DuckDB gives them where nothing may be lost."""
    bytes_ = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1, None], pa.int8()))
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3, 3], pa.int32()), bytes_)
    conn.execute("CREATE TEMP TABLE booleans (b boolean, bs boolean[])")
    copy_batch(conn, "booleans", pa.record_batch([bytes_, lists], names=["b", "bs"]), ["b", "bs"])
    found = conn.execute("SELECT b, bs FROM booleans").fetchall()
    assert found == [(False, [False, True]), (True, [None]), (None, [])]


def _arrow(values: list[Any], kind: str) -> pa.Array:
    if not kind.startswith("uuid"):
        return pa.array(values, ARROW[kind])
    plain = [_octets(value) for value in values]
    if kind == "uuid":
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(plain, pa.binary(16)))
    return pa.array(plain, pa.list_(pa.binary(16))).cast(pa.list_(pa.uuid()))


def _octets(value: Any) -> Any:
    if isinstance(value, list):
        return [_octets(each) for each in value]
    return None if value is None else value.bytes


def _bits(value: Any) -> Any:
    """A float by its bits, so that -0.0 is not 0.0."""
    if isinstance(value, list):
        return [_bits(each) for each in value]
    return struct.pack(">d", value) if isinstance(value, float) else value
