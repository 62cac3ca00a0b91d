"""The labels of a training set: an entity frame, or a query that never leaves the database."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from psycopg import sql

from extensions.errors import SkewlessError
from extensions.stores.offline.arrow_session import ArrowSession
from extensions.stores.offline.arrow_types import arrow_type, is_text
from extensions.stores.offline.moments import parsed
from extensions.stores.offline.point_in_time import MOMENT, ORDINAL, Key

UTC_MICROSECONDS = pa.timestamp("us", "UTC")


def _temporary_name() -> str:
    return f"labels_{uuid.uuid4().hex}"


@dataclass(frozen=True)
class EntityTable:
    """Labels held by the client: only keys and moments travel; all columns stay as they are."""

    rows: pa.Table
    timestamp_column: str
    name: str = field(default_factory=_temporary_name)

    @classmethod
    def of(cls, frame: pd.DataFrame | pa.Table) -> "EntityTable":
        """Read a pandas frame or an Arrow table; text and objects count as moments too.

        Raises:
            SkewlessError: no moment, or a column that Arrow cannot hold.
        """
        if isinstance(frame, pa.Table):
            column = _moment_column(dict(zip(frame.column_names, frame.schema.types, strict=True)))
            moments = frame[column]
            if not pa.types.is_timestamp(moments.type):
                moments = _parsed(moments.to_pandas(), column)
            place = frame.schema.get_field_index(column)
            return cls(frame.set_column(place, column, _in_utc(moments)), column)
        column = infer_event_timestamp_from_entity_df(
            {str(name): dtype for name, dtype in frame.dtypes.items()}
        )
        rest = frame.drop(columns=column)
        try:
            rows = pa.Table.from_pandas(rest, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise SkewlessError(
                f"The entity frame has a column of mixed types ({error}): one type each."
            ) from error
        place = list(frame.columns).index(column)
        moments = frame[column]
        times = (
            _in_utc(pa.chunked_array([pa.Array.from_pandas(moments)]))
            if pd.api.types.is_datetime64_any_dtype(moments)
            else _parsed(moments, column)
        )
        return cls(rows.add_column(place, column, times), column)

    @property
    def columns(self) -> list[str]:
        """All columns, as the caller gave them."""
        return list(self.rows.column_names)

    @property
    def count(self) -> int | None:
        """How many labels."""
        return int(self.rows.num_rows)

    def sent(self, keys: Sequence[Key]) -> pa.Table:
        """What travels of the labels: ordinals, moments, and keys of the views' own types.

        Raises:
            SkewlessError: a needed key is missing or is of another type, or a label has no moment.
        """
        moments = pc.floor_temporal(self.rows[self.timestamp_column], unit="microsecond")
        if moments.null_count:
            row = pc.index(moments.is_null(), value=True).as_py()
            raise SkewlessError(
                f"Row {row} of the entity frame has no {self.timestamp_column}: "
                "give every label its time."
            )
        columns = {
            ORDINAL: pa.array(np.arange(self.rows.num_rows)),
            MOMENT: moments.cast(UTC_MICROSECONDS),
        }
        _check_keys(keys, self.columns)
        for i, key in enumerate(keys):
            columns[f"key_{i}"] = _as_key(self.rows[key.label_column], key)
        return pa.table(columns)

    def upload(self, session: ArrowSession, labels: pa.Table) -> None:
        """Put some of the labels `sent` into the temporary table, neighbours side by side.

        Sorted by key, the order of the logs' indexes: that halves the time of a large join.
        """
        keys = [name for name in labels.column_names if name not in (ORDINAL, MOMENT)]
        order = [(name, "ascending") for name in (*keys, MOMENT)]
        session.upload(self.name, labels.sort_by(order))

    @property
    def relation(self) -> sql.Composable:
        """The temporary table."""
        return sql.SQL("pg_temp.{}").format(sql.Identifier(self.name))

    def span(self) -> tuple[datetime | None, datetime | None]:
        """The earliest and the latest label."""
        bounds = pc.min_max(self.rows[self.timestamp_column].cast(UTC_MICROSECONDS, safe=False))
        return bounds["min"].as_py(), bounds["max"].as_py()


@dataclass(frozen=True)
class EntityQuery:
    """Labels that a SQL query returns; they are joined where they are."""

    query: str
    columns: list[str]
    timestamp_column: str
    name: str = field(default_factory=_temporary_name)
    count: int | None = None

    @classmethod
    def of(cls, query: str, session: ArrowSession) -> "EntityQuery":
        """Ask the database for the query's columns.

        Raises:
            SkewlessError: no moment among them.
        """
        query = query.strip().removesuffix(";")
        schema = session.rows(f"SELECT * FROM (\n{query}\n) AS labels LIMIT 0").schema
        column = _moment_column(dict(zip(schema.names, schema.types, strict=True)))
        return cls(query, list(schema.names), column)

    def prepare(self, session: ArrowSession, keys: Sequence[Key]) -> sql.Composable:
        """Put the query's rows, numbered, into a temporary table; returns it.

        Raises:
            SkewlessError: a needed key is missing, or a label has no moment.
        """
        _check_keys(keys, self.columns)
        session.run(
            sql.SQL(
                "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT * FROM ({}) AS n ORDER BY {}"
            ).format(
                sql.Identifier(self.name),
                self.numbered(keys),
                sql.SQL(", ").join(sql.Identifier(name) for name in _order(keys)),
            )
        )
        session.run(sql.SQL("ANALYZE {}").format(self.relation))
        lost = session.table(
            sql.SQL("SELECT FROM {} WHERE {} IS NULL LIMIT 1").format(
                self.relation, sql.Identifier(MOMENT)
            )
        )
        if lost.num_rows:
            raise SkewlessError(
                f"A row of the labels' query has no {self.timestamp_column}: "
                "give every label its time."
            )
        return self.relation

    def numbered(self, keys: Sequence[Key]) -> sql.Composed:
        """The query's columns with ordinal, moment and keys before them."""
        moments = sql.SQL("q.{}::timestamptz AS {}").format(
            sql.Identifier(self.timestamp_column), sql.Identifier(MOMENT)
        )
        return sql.SQL(
            "SELECT row_number() OVER () AS {ordinal}, {parts}, q.* FROM (\n{query}\n) AS q"
        ).format(
            ordinal=sql.Identifier(ORDINAL),
            parts=sql.SQL(", ").join(
                [
                    moments,
                    *(
                        sql.SQL("q.{} AS {}").format(
                            sql.Identifier(key.label_column), sql.Identifier(f"key_{i}")
                        )
                        for i, key in enumerate(keys)
                    ),
                ]
            ),
            query=sql.SQL(self.query),
        )

    @property
    def relation(self) -> sql.Composable:
        """The temporary table."""
        return sql.SQL("pg_temp.{}").format(sql.Identifier(self.name))

    def span(self, session: ArrowSession) -> tuple[datetime | None, datetime | None]:
        """The earliest and the latest label."""
        bounds = session.table(
            sql.SQL(
                "SELECT min(m), max(m) FROM (SELECT q.{}::timestamptz AS m "
                "FROM (\n{}\n) AS q) AS moments"
            ).format(
                sql.Identifier(self.timestamp_column),
                sql.SQL(self.query),
            )
        )
        return bounds["min"][0].as_py(), bounds["max"][0].as_py()


def _order(keys: Sequence[Key]) -> list[str]:
    return [*(f"key_{i}" for i in range(len(keys))), MOMENT]


def _moment_column(types: dict[str, pa.DataType]) -> str:
    """Feast's rule: ``event_timestamp``, or else the only column of times."""
    if "event_timestamp" in types:
        return "event_timestamp"
    times = [name for name, data_type in types.items() if pa.types.is_timestamp(data_type)]
    if len(times) != 1:
        raise SkewlessError(
            "The entity frame does not say when each label happened: name that column "
            "event_timestamp."
        )
    return times[0]


def _parsed(moments: "pd.Series[Any]", column: str) -> pa.ChunkedArray:
    try:
        return parsed(moments)
    except (ValueError, TypeError) as error:
        raise SkewlessError(
            f"The column {column} does not hold times ({error}): write them as "
            "2026-01-31T12:00:00Z."
        ) from error


def _in_utc(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same moments; a time without a zone is UTC, as Feast says."""
    if moments.type.tz is None:
        return pc.assume_timezone(moments, "UTC")
    return moments.cast(pa.timestamp(moments.type.unit, "UTC"))


def _check_keys(keys: Sequence[Key], columns: Sequence[str]) -> None:
    missing = [key.label_column for key in keys if key.label_column not in columns]
    if missing:
        raise SkewlessError(
            f"The entity frame has no column {', '.join(missing)}, which the features are "
            f"joined on: add it (there are {', '.join(columns)})."
        )


def _as_key(column: pa.ChunkedArray, key: Key) -> pa.ChunkedArray:
    """The column in the key's own type, exactly: 5.0 is the key 5, 5.7 and "5" are none."""
    wanted = arrow_type(key.dtype)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type) != is_text(wanted) and not pa.types.is_null(column.type):
        raise SkewlessError(
            f"The key {key.label_column} must be {key.dtype}, as its entity says; the frame "
            f"has {column.type}."
        )
    try:
        if pa.types.is_timestamp(wanted) and pa.types.is_timestamp(column.type):
            return _in_utc(column).cast(UTC_MICROSECONDS)
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SkewlessError(
            f"The key {key.label_column} must be {key.dtype}, as its entity says ({error})."
        ) from error
