"""Writers of a history table: past the ids that are known, or past the rows that are there."""

from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from extensions.database.history_change_notes import note_insert
from extensions.database.scalars import clock
from extensions.history.column_types import canonical
from extensions.history.row_refusals import Refusals, Refused, Staging, without_number
from extensions.history.table_copy import ROW, TableCopy
from extensions.history.time_partitions import TimePartitions
from extensions.sources import HistoryTable

_ORDER = "skewless_order"


class Writer(Protocol):
    """What a load asks of a table's writer; `prepare` runs in another thread."""

    def prepare(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the table's types."""

    def begin(self) -> None:
        """A transaction has begun, and holds the ingest lock."""

    def write(self, batch: pa.RecordBatch) -> int:
        """Store prepared rows; returns how many were new."""

    def complete(self) -> None:
        """The transaction is about to end."""


def writer_of(conn: psycopg.Connection, table: HistoryTable, refused: Refused) -> Writer:
    """The writer for ``table``; ``refused`` is called with rows that the database refuses."""
    return (IdWriter if table.id else PlainWriter)(conn, table, refused)


class _Arrivals:
    """When a transaction's rows arrived: when they claim to, or else now, by its clock.

    Rows that claim to have arrived before they can be seen are noted, so that whatever was
    computed without them is computed again.
    """

    def __init__(self, conn: psycopg.Connection, table: HistoryTable) -> None:
        self._conn, self._table = conn, table
        self._claimed: datetime | None = None
        self.now = datetime.min.replace(tzinfo=UTC)

    def begin(self) -> None:
        # The note is written here, once, and not by the tables' triggers.
        self._conn.execute("SET LOCAL skewless.noted = 'on'")
        self.now, self._claimed = clock(self._conn), None

    def filled(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, each with its arrival."""
        name = self._table.arrival
        if not self._table.has_arrival:
            return rows
        place = rows.schema.get_field_index(name)
        arrival = rows.column(place)
        if not arrival.null_count:
            return rows
        now = pa.scalar(self.now, pa.timestamp("us", "UTC")).cast(arrival.type)
        return rows.set_column(place, rows.schema.field(place), pc.fill_null(arrival, now))

    def stored(self, rows: pa.RecordBatch) -> None:
        """Some of these rows are new in the table."""
        least = pc.min(rows.column(self._table.arrival).cast(pa.timestamp("us", "UTC"))).as_py()
        if least is not None and least < self.now:
            self._claimed = min(filter(None, (self._claimed, least)))

    def complete(self) -> None:
        if self._claimed is not None:
            note_insert(self._conn, self._table.table, self._claimed)


class _TableWriter:
    """What both writers share: arrivals, partitions, and what to do about refused rows."""

    def __init__(self, conn: psycopg.Connection, table: HistoryTable, refused: Refused) -> None:
        self._conn, self._table = conn, table
        self._arrivals = _Arrivals(conn, table)
        self._partitions = TimePartitions(conn, table)
        self._copy = TableCopy(conn, table)
        self._staging = Staging(conn, table)
        self._refusals = Refusals(conn, table, self._staging, refused)
        self._defaults = {
            c.name for c in table.written if c.has_default and c.name != table.arrival
        }

    def begin(self) -> None:
        self._partitions.begin()
        self._arrivals.begin()

    def complete(self) -> None:
        self._partitions.attach()
        self._arrivals.complete()

    def _by_defaults(self, rows: pa.RecordBatch) -> list[pa.RecordBatch]:
        """The rows in groups, each without the columns of which it takes the default."""
        names = [
            name
            for name in rows.schema.names
            if name in self._defaults and rows.column(name).null_count
        ]
        if not names:
            return [rows]
        nulls = np.stack(
            [pc.is_null(rows.column(name)).to_numpy(zero_copy_only=False) for name in names]
        )
        groups = []
        patterns, which = np.unique(nulls, axis=1, return_inverse=True)
        for place, pattern in enumerate(patterns.T):
            left = [name for name, is_null in zip(names, pattern, strict=True) if is_null]
            chosen = rows.filter(pa.array(which.reshape(-1) == place))
            groups.append(chosen.drop_columns(left) if left else chosen)
        return groups


class IdWriter(_TableWriter):
    """Writes rows straight into the table, past the ids that are known: first arrival wins."""

    def __init__(self, conn: psycopg.Connection, table: HistoryTable, refused: Refused) -> None:
        super().__init__(conn, table, self._note_refused)
        self._hand_out = refused
        self._id = str(table.id)
        self._again: pa.RecordBatch | None = None
        self._refused_ids: list[pa.Array] = []
        conn.execute(
            sql.SQL(
                "CREATE TEMP TABLE skewless_asked AS SELECT {id} FROM {ids} WITH NO DATA"
            ).format(id=sql.Identifier(self._id), ids=sql.Identifier(table.id_table))
        )
        conn.execute(
            sql.SQL("ALTER TABLE skewless_asked ADD {} bigint").format(sql.Identifier(ROW))
        )

    def prepare(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the table's types, and which rows have an id that an earlier one has."""
        batch = canonical(batch, self._table)
        return batch.append_column(_ORDER, _first_of_each(batch.column(self._id)))

    def write(self, batch: pa.RecordBatch) -> int:
        """Store prepared rows; returns how many were new."""
        again = batch.column(_ORDER)
        batch = batch.drop_columns([_ORDER])
        first = pc.invert(again)
        rows, later = batch, batch.slice(0, 0)
        if batch.num_rows and pc.any(again).as_py():
            rows, later = batch.filter(first), batch.filter(again)
        inserted = self._write(rows)
        # An id whose first row was refused is still free for the next one.
        while self._refused_ids and later.num_rows:
            ids = pa.concat_arrays(self._refused_ids)
            self._refused_ids = []
            later = later.filter(pc.is_in(later.column(self._id), value_set=ids))
            again = _first_of_each(later.column(self._id))
            inserted += self._write(later.filter(pc.invert(again)))
            later = later.filter(again)
        self._refused_ids = []
        return inserted

    def _write(self, rows: pa.RecordBatch) -> int:
        if not rows.num_rows:
            return 0
        rows = self._arrivals.filled(rows)
        self._partitions.make_missing(rows)
        return sum(self._refusals.store(part, self._store) for part in self._by_defaults(rows))

    def _store(self, rows: pa.RecordBatch) -> int:
        while rows.num_rows:
            try:
                with self._conn.transaction():
                    self._put(rows)
            except psycopg.errors.UniqueViolation as error:
                if error.diag.table_name != self._table.id_table:
                    raise
                # None of these rows was stored. What is known by now leaves, so this ends.
                unknown = self._without_known(rows)
                if unknown.num_rows == rows.num_rows:
                    raise
                rows = unknown
            else:
                self._arrivals.stored(rows)
                return int(rows.num_rows)
        return 0

    def _put(self, rows: pa.RecordBatch) -> None:
        # Ordered ids are the cheapest for the index, and two writers of the same ids then wait
        # for each other and do not deadlock.
        ids = rows.select([self._id, self._table.time]).sort_by(self._id)
        self._copy.copy(self._table.id_table, ids)
        self._partitions.copy(rows)

    def _without_known(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows whose id is not stored, and each of those ids once (types may fold texts)."""
        places = pa.array(np.arange(rows.num_rows, dtype=np.int64))
        asked = pa.record_batch([rows.column(self._id), places], names=[self._id, ROW])
        self._conn.execute("TRUNCATE skewless_asked")
        self._copy.copy("skewless_asked", asked)
        # Without statistics the planner may join the ids by nested loops.
        self._conn.execute("ANALYZE skewless_asked")
        names = {
            "id": sql.Identifier(self._id),
            "row": sql.Identifier(ROW),
            "ids": sql.Identifier(self._table.id_table),
        }
        found = self._conn.execute(
            sql.SQL(
                "SELECT {row} FROM skewless_asked INNER JOIN {ids} USING ({id}) UNION ALL "
                "SELECT {row} FROM (SELECT {row}, row_number() OVER (PARTITION BY {id} "
                "ORDER BY {row}) AS n FROM skewless_asked) AS numbered WHERE n > 1"
            ).format(**names)
        ).fetchall()
        keep = np.ones(rows.num_rows, bool)
        keep[[place for (place,) in found]] = False
        return rows.filter(pa.array(keep))

    def _note_refused(self, rows: pa.RecordBatch, why: str) -> None:
        self._refused_ids.append(rows.column(self._id))
        self._hand_out(rows, why)


class PlainWriter(_TableWriter):
    """Writes rows of a table without an id, past those that are there with all their values."""

    def prepare(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the table's types."""
        return canonical(batch, self._table)

    def write(self, batch: pa.RecordBatch) -> int:
        """Store prepared rows; returns how many were new."""
        if not batch.num_rows:
            return 0
        rows = self._arrivals.filled(batch)
        self._partitions.make_missing(rows)
        return sum(self._refusals.store(part, self._store) for part in self._by_defaults(rows))

    def _store(self, rows: pa.RecordBatch) -> int:
        with self._conn.transaction():
            self._staging.put(rows)
            stored = self._conn.execute(
                self._insert(without_number(rows).schema.names), {"now": self._arrivals.now}
            ).rowcount
        if stored:
            self._arrivals.stored(rows)
        return stored

    def _insert(self, names: list[str]) -> sql.Composed:
        table = self._table
        place = {*table.keys, table.time}
        if table.has_arrival:
            place.add(table.arrival)
        values = [name for name in names if name not in place]
        same = [_same(name, nullable=table.by_name[name].nullable) for name in table.keys]
        same.append(_same(table.time, nullable=False))
        if values:
            same.append(sql.SQL("{} = {}").format(_row("i", values), _row("b", values)))
        if table.has_arrival:
            # What is loaded again, and only then would arrive, is there already.
            same.append(
                sql.SQL("(b.{arrival} = %(now)s OR i.{arrival} = b.{arrival})").format(
                    arrival=sql.Identifier(table.arrival)
                )
            )
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        return sql.SQL(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM ("
            "SELECT b.*, row_number() OVER (PARTITION BY {all} ORDER BY {row}) AS skewless_nth "
            "FROM {staged} AS b "
            "WHERE NOT EXISTS (SELECT FROM {table} AS i WHERE {same})"
            ") AS fresh WHERE skewless_nth = 1 ORDER BY {row} ON CONFLICT DO NOTHING"
        ).format(
            table=sql.Identifier(table.table),
            columns=columns,
            all=_row("b", names),
            row=sql.Identifier(ROW),
            staged=sql.Identifier(self._staging.name),
            same=sql.SQL(" AND ").join(same),
        )


def _same(name: str, *, nullable: bool) -> sql.Composed:
    operator = sql.SQL("IS NOT DISTINCT FROM" if nullable else "=")
    return sql.SQL("i.{name} {operator} b.{name}").format(
        name=sql.Identifier(name), operator=operator
    )


def _row(of: str, names: list[str]) -> sql.Composed:
    """Values as one text, which every type has; so of types without equality as well."""
    columns = sql.SQL(", ").join(sql.Identifier(of, name) for name in names)
    return sql.SQL("ROW({})::text").format(columns)


def _first_of_each(ids: pa.Array) -> pa.Array:
    """Which rows have an id that an earlier one has."""
    places = pa.table({"id": ids, "place": pa.array(np.arange(len(ids)))})
    firsts = places.group_by("id").aggregate([("place", "min")]).column("place_min").to_numpy()
    again = np.ones(len(ids), bool)
    again[firsts] = False
    # Without an id nothing is known of a row: the database refuses it.
    return pa.array(again & ~pc.is_null(ids).to_numpy(zero_copy_only=False))
