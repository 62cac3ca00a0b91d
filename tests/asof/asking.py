"""Asking the engine, with its answers in the oracle's terms."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from extensions.asof import Computation, Spine, compute
from tests.oracle.answers import Answer
from tests.oracle.features import Keys

QuestionRow: TypeAlias = tuple[Keys, datetime]
Answered: TypeAlias = list[tuple[QuestionRow, Answer]]


def ask(conn: dbapi.Connection, computation: Computation, spine: Spine) -> Answered:
    """Every row that the engine returns, sorted by question."""
    return sorted(rows_of(compute(conn, computation, spine), computation), key=lambda row: row[0])


def ask_rows(
    conn: dbapi.Connection, computation: Computation, rows: Sequence[QuestionRow]
) -> Answered:
    """The direct way: a spine of these very rows."""
    return ask(conn, computation, spine_of(computation, rows))


def spine_of(computation: Computation, rows: Sequence[QuestionRow]) -> Spine:
    """`Spine.of` for rows of (keys, moment)."""
    return Spine.of([(*keys, as_of) for keys, as_of in rows], computation)


def rows_of(table: pa.Table, computation: Computation) -> Iterator[tuple[QuestionRow, Answer]]:
    """Each row of an engine's answer, as (question, values)."""
    width = len(computation.join_keys)
    columns = [_values(table.column(name)) for name in computation.columns]
    for row in zip(*columns, strict=True):
        yield (tuple(row[:width]), row[width]), tuple(row[width + 1 :])


def questions_of(table: pa.Table, computation: Computation) -> Iterator[QuestionRow]:
    """The questions in a spine's rows."""
    columns = [_values(table.column(name)) for name in (*computation.join_keys, "as_of")]
    for *keys, as_of in zip(*columns, strict=True):
        yield tuple(keys), as_of


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values, but moments in UTC, arrays as tuples, and float32 as numpy's, to the bit."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        return [moment.astimezone(UTC) for moment in column.to_pylist()]
    if pa.types.is_float32(kind):
        return [None if value is None else np.float32(value) for value in column.to_pylist()]
    if pa.types.is_list(kind):
        return [
            None if row.values is None else tuple(_numbers(row.values))
            for chunk in column.chunks
            for row in chunk
        ]
    plain: list[Any] = column.to_pylist()
    return plain


def _numbers(values: pa.Array) -> Any:
    """float32 straight from Arrow's memory; nulls stay None."""
    if pa.types.is_float32(values.type) and values.null_count == 0:
        return values.to_numpy()
    return values.to_pylist()
