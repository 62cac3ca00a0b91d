"""The labels of a training set: an entity frame, or a query that never leaves the database."""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from psycopg import sql

from extensions.errors import InputError
from extensions.feature_types import UTC_MICROSECONDS
from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.arrow.source_column_types import SourceType, column_types
from extensions.stores.offline.join.key_matching import key_of_query
from extensions.stores.offline.join.point_in_time import LABEL_TIME, ORDINAL, Key
from extensions.stores.values.key_value_casts import cast_key
from extensions.timestamp_column_parsing import in_utc, parse_column

# A name that PostgreSQL has cut is at least so long: 63 bytes, less a character's rest.
CUT_FROM = 60


def _temporary_name() -> str:
    return f"labels_{uuid.uuid4().hex}"


@dataclass(frozen=True)
class EntityTable:
    """Labels from the client: only keys and times are uploaded; other columns stay in memory."""

    rows: pa.Table
    timestamp_column: str
    name: str = field(default_factory=_temporary_name)

    @classmethod
    def of(cls, frame: pd.DataFrame | pa.Table) -> "EntityTable":
        """Read a pandas frame or an Arrow table; text and objects count as times too.

        Raises:
            InputError: no time, or a column that Arrow cannot hold.
        """
        if isinstance(frame, pa.Table):
            column = _time_column(dict(zip(frame.column_names, frame.schema.types, strict=True)))
            label_times = frame[column]
            if not pa.types.is_timestamp(label_times.type):
                label_times = parse_column(label_times.to_pandas(), column)
            place = frame.schema.get_field_index(column)
            return cls(frame.set_column(place, column, in_utc(label_times)), column)
        column = infer_event_timestamp_from_entity_df(
            {str(name): dtype for name, dtype in frame.dtypes.items()}
        )
        rest = frame.drop(columns=column)
        try:
            rows = pa.Table.from_pandas(rest, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"The entity frame has a column of mixed types ({error}): one type each."
            ) from error
        place = list(frame.columns).index(column)
        label_times = frame[column]
        times = (
            in_utc(pa.chunked_array([pa.Array.from_pandas(label_times)]))
            if pd.api.types.is_datetime64_any_dtype(label_times)
            else parse_column(label_times, column)
        )
        if not rows.num_columns:  # a table without columns knows no number of rows
            return cls(pa.table({column: times}), column)
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
        """The table to upload: ordinals, times, and keys in the views' types.

        Raises:
            InputError: a needed key is missing or is of another type, or a label has no time.
        """
        label_times = pc.floor_temporal(self.rows[self.timestamp_column], unit="microsecond")
        if label_times.null_count:
            row = pc.index(label_times.is_null(), value=True).as_py()
            raise InputError(
                f"Row {row} of the entity frame has no {self.timestamp_column}: "
                "give every label its time."
            )
        columns = {
            ORDINAL: pa.array(np.arange(self.rows.num_rows)),
            LABEL_TIME: label_times.cast(UTC_MICROSECONDS),
        }
        _check_keys(keys, self.columns)
        for i, key in enumerate(keys):
            columns[f"key_{i}"] = cast_key(
                self.rows[key.label_column], key.dtype, key.label_column, "the frame", unknown=True
            )
        return pa.table(columns)

    def upload(self, session: ArrowSession, labels: pa.Table) -> None:
        """Put some of the labels `sent` into the temporary table, neighbours side by side.

        Sorted by key, the order of the logs' indexes: that halves the time of a large join.
        """
        keys = [name for name in labels.column_names if name not in (ORDINAL, LABEL_TIME)]
        order = [(name, "ascending") for name in (*keys, LABEL_TIME)]
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
    """Labels from a SQL query, which are joined inside the database."""

    query: str
    types: dict[str, SourceType]
    timestamp_column: str
    name: str = field(default_factory=_temporary_name)
    count: int | None = None

    @classmethod
    def of(cls, query: str, session: ArrowSession) -> "EntityQuery":
        """Ask the database for the query's columns.

        Raises:
            SkewlessError: no time among them, or columns that have one name.
        """
        query = query.strip().removesuffix(";")
        schema = session.rows(f"SELECT * FROM (\n{query}\n) AS labels LIMIT 0").schema
        _check_names(schema.names, query)
        column = _time_column(dict(zip(schema.names, schema.types, strict=True)))
        [types] = column_types(session, [(f"(\n{query}\n)", schema.names)])
        return cls(query, types, column)

    @property
    def columns(self) -> list[str]:
        """The query's columns."""
        return list(self.types)

    def prepare(self, session: ArrowSession, keys: Sequence[Key]) -> sql.Composable:
        """Put the query's rows, numbered, into a temporary table; returns it.

        Raises:
            InputError: a needed key is missing or a value is none, or a label has no time.
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
                self.relation, sql.Identifier(LABEL_TIME)
            )
        )
        if lost.num_rows:
            raise InputError(
                f"A row of the labels' query has no {self.timestamp_column}: "
                "give every label its time."
            )
        self._check_values(session, keys)
        return self.relation

    def sent(self, session: ArrowSession) -> pa.Table:
        """What `prepare` put into the temporary table: ordinals, times and keys."""
        names = session.rows(sql.SQL("SELECT * FROM {} LIMIT 0").format(self.relation)).schema.names
        wanted = [n for n in names if n in (ORDINAL, LABEL_TIME) or n.startswith("key_")]
        return session.table(
            sql.SQL("SELECT {} FROM {}").format(
                sql.SQL(", ").join(sql.Identifier(name) for name in wanted), self.relation
            )
        )

    def _check_values(self, session: ArrowSession, keys: Sequence[Key]) -> None:
        """Refuse keys that are not what their entity says: 5.7 is no whole number."""
        for i, key in enumerate(keys):
            name = sql.Identifier(key.label_column)
            odd = session.table(
                sql.SQL(
                    "SELECT {name}::text AS value FROM {labels} "
                    "WHERE {key} IS NULL AND {name} IS NOT NULL LIMIT 1"
                ).format(name=name, labels=self.relation, key=sql.Identifier(f"key_{i}"))
            )
            if odd.num_rows:
                raise InputError(
                    f"The key {key.label_column} must be {key.dtype}, as its entity says; the "
                    f"labels' query returns {odd['value'][0].as_py()}."
                )

    def numbered(self, keys: Sequence[Key]) -> sql.Composed:
        """The query's columns with ordinal, time and keys before them."""
        label_times = sql.SQL("q.{}::timestamptz AS {}").format(
            sql.Identifier(self.timestamp_column), sql.Identifier(LABEL_TIME)
        )
        return sql.SQL(
            "SELECT row_number() OVER () AS {ordinal}, {parts}, q.* FROM (\n{query}\n) AS q"
        ).format(
            ordinal=sql.Identifier(ORDINAL),
            parts=sql.SQL(", ").join(
                [
                    label_times,
                    *(
                        sql.SQL("{} AS {}").format(
                            key_of_query(
                                sql.Identifier("q", key.label_column),
                                key.dtype,
                                self.types[key.label_column],
                                key.label_column,
                            ),
                            sql.Identifier(f"key_{i}"),
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
                "FROM (\n{}\n) AS q) AS times"
            ).format(
                sql.Identifier(self.timestamp_column),
                sql.SQL(self.query),
            )
        )
        return bounds["min"][0].as_py(), bounds["max"][0].as_py()


def _order(keys: Sequence[Key]) -> list[str]:
    return [*(f"key_{i}" for i in range(len(keys))), LABEL_TIME]


def _time_column(types: dict[str, pa.DataType]) -> str:
    """Feast's rule: ``event_timestamp``, or else the only column of times."""
    if "event_timestamp" in types:
        return "event_timestamp"
    times = [name for name, data_type in types.items() if pa.types.is_timestamp(data_type)]
    if len(times) != 1:
        raise InputError(
            "The entity frame does not say when each label happened: name that column "
            "event_timestamp."
        )
    return times[0]


def _check_keys(keys: Sequence[Key], columns: Sequence[str]) -> None:
    missing = [key.label_column for key in keys if key.label_column not in columns]
    if missing:
        raise InputError(
            f"The entity frame has no column {', '.join(missing)}, which the features are "
            f"joined on: add it (there are {', '.join(columns)})."
        )


def _check_names(names: Sequence[str], query: str) -> None:
    """PostgreSQL cuts names after 63 bytes, and two columns of one name are one in a join."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"The labels' query returns more than one column {', '.join(twice)}: name each its own"
            " (PostgreSQL cuts names after 63 bytes)."
        )
    for name in names:
        if len(name.encode()) < CUT_FROM:
            continue
        longer = re.search(re.escape(name) + r"[\w$]+", query, re.IGNORECASE)
        if longer and name not in re.findall(r"[\w$]+", query.lower()):
            raise InputError(
                f"The labels' query has a column {longer[0]}, which PostgreSQL cuts to {name}: "
                "give it a name of at most 63 bytes."
            )
