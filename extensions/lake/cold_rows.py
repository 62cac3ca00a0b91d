"""The rows of a log before its cut that labels may be joined to, found in the lake by DuckDB.

For each label the lake's latest row that was known by its time. PostgreSQL's own join then decides
between these and the rows that it still has: what is handed over need only be rows of the log,
the right one of each label among them, so that values, types and ties are PostgreSQL's throughout.

A row is visible from ``greatest(event, created)`` on. Of an entity's rows in the order of
visibility, those that are not newer (event, created) than all before them are never the latest:
without them the latest visible row is the latest in one order, and an ASOF join finds it.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from extensions.engines.duckdb import duckdb_failures, quoted
from extensions.errors import DefinitionError
from extensions.lake.lake_tables import LakeTable
from extensions.lake.relations import rows_before, time_literal

if TYPE_CHECKING:
    from pyiceberg.table import Table

ORDINAL, AT = "_ordinal", "_at"


@dataclass(frozen=True)
class Known:
    """Which rows a label may know, as the join has it.

    ``bitemporal``: those published by its time; ``by``: those published by that time.
    """

    bitemporal: bool = True
    by: datetime | None = None


class ColdRows:
    """The rows that some labels need of logs, by log; safe to read from several threads.

    Args:
        duck: A session that spills; it is used by nobody else meanwhile.
    """

    def __init__(self, duck: duckdb.DuckDBPyConnection) -> None:
        self._duck = duck
        self._tables: dict[str, LakeTable] = {}
        self._lock = threading.Lock()

    def look_up(
        self,
        held: "Table",
        table: LakeTable,
        before: datetime,
        asked: Sequence[tuple[pa.Table, Sequence[str]]],
        known: Known,
        snapshot: int | None = None,
    ) -> None:
        """Find what the labels need of one log.

        Args:
            held: The lake's table.
            table: The log.
            before: Its cut.
            asked: Labels, with columns `ORDINAL` (by which they come in order), `AT` (their time,
                timestamptz) and keys (int64, int32 or string); and which of these are the log's
                keys, in its order.
            known: What of the log counts.
            snapshot: The lake's snapshot; the current one if left.

        Raises:
            ConflictError: another engine's delete files hold rows of the table.
            UnavailableError: memory and spill folder do not suffice.
        """
        duck, number = self._duck, len(self._tables)
        keys = [quoted(key) for key in table.keys]
        identity = ", ".join([*keys, quoted(table.event), quoted(table.arrival)])
        with duckdb_failures(f"The join with the lake's {table.name}"):
            duck.register("lake", rows_before(held, table, before, snapshot))
            duck.execute(
                f"CREATE TEMP TABLE winners_{number} AS SELECT 0::BIGINT AS {ORDINAL}, {identity} "
                "FROM lake LIMIT 0"
            )
            for labels, columns in asked:
                self._find(table, before, labels, columns, known, f"winners_{number}")
            duck.execute(
                f"CREATE TEMP TABLE rows_{number} AS SELECT lake.* FROM lake SEMI JOIN "
                f"winners_{number} USING ({identity}) "
                f"WHERE {quoted(table.event)} < {time_literal(before)}"
            )
            duck.unregister("lake")
        self._tables[table.name] = table

    def of(self, log: str, first: int, end: int) -> pa.Table:
        """The rows that the labels with ordinals in ``[first, end)`` need of a log."""
        table = self._tables[log]
        number = list(self._tables).index(log)
        identity = ", ".join(map(quoted, [*table.keys, table.event, table.arrival]))
        names = ", ".join(map(quoted, table.schema.names))
        with self._lock, duckdb_failures(f"The join with the lake's {log}"):
            found: pa.Table = self._duck.sql(
                f"SELECT {names} FROM rows_{number} SEMI JOIN (SELECT * FROM winners_{number} "
                f"WHERE {ORDINAL} >= {first} AND {ORDINAL} < {end}) AS w USING ({identity})"
            ).to_arrow_table()
        return found.cast(table.schema)

    def _find(
        self,
        table: LakeTable,
        before: datetime,
        labels: pa.Table,
        columns: Sequence[str],
        known: Known,
        winners: str,
    ) -> None:
        if not labels.num_rows:
            return
        latest = pc.max(labels[AT]).as_py()
        ours = _comparable(table, labels, columns)
        keys = [f"k{i}" for i in range(len(ours))]
        named = ", ".join(keys)
        event, arrival = quoted(table.event), quoted(table.arrival)
        visible = f"greatest({event}, {arrival})" if known.bitemporal else event
        own = ", ".join(f"{mine} AS {key}" for (mine, _), key in zip(ours, keys, strict=True))
        theirs = ", ".join(f"{label} AS {key}" for (_, label), key in zip(ours, keys, strict=True))
        conditions = [f"{event} < {time_literal(before)}", f"{event} <= {time_literal(latest)}"]
        if known.by is not None:
            conditions.append(f"{arrival} <= {time_literal(known.by)}")
        same = " AND ".join(f"n.{key} = s.{key}" for key in keys)
        original = ", ".join(f"s.{quoted(key)}" for key in table.keys)
        self._duck.register(
            "labels", labels.select(list({ORDINAL: 0, AT: 0, **dict.fromkeys(columns)}))
        )
        self._duck.execute(
            f"INSERT INTO {winners} "
            f"WITH need AS MATERIALIZED (SELECT {ORDINAL}, {AT}, {theirs} FROM labels), "
            f"candidates AS (SELECT {own}, {', '.join(map(quoted, table.keys))}, {event} AS e, "
            f"{arrival} AS c, {visible} AS v FROM lake WHERE {' AND '.join(conditions)}), "
            f"asked AS (SELECT * FROM candidates SEMI JOIN need USING ({named})), "
            "at_once AS (SELECT *, epoch_us(e)::HUGEINT * 18446744073709551616 + epoch_us(c) AS r "
            f"FROM asked QUALIFY row_number() OVER (PARTITION BY {named}, v "
            "ORDER BY e DESC, c DESC) = 1), "
            "steps AS (SELECT * FROM at_once QUALIFY r > coalesce(max(r) OVER ("
            f"PARTITION BY {named} ORDER BY v ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), "
            "r - 1)) "
            f"SELECT n.{ORDINAL}, {original}, s.e, s.c FROM need AS n ASOF JOIN steps AS s "
            f"ON {same} AND n.{AT} >= s.v"
        )
        self._duck.unregister("labels")


def _comparable(
    table: LakeTable, labels: pa.Table, columns: Sequence[str]
) -> list[tuple[str, str]]:
    """For each key SQL of the log's and of the label's value, which are equal as in PostgreSQL.

    A whole number and a text are equal where the text is how PostgreSQL writes the number.
    """
    pairs = []
    for key, column in zip(table.keys, columns, strict=True):
        mine = table.schema.field(key).type
        theirs: Any = labels.schema.field(column).type
        for kind in (mine, theirs):
            if not (pa.types.is_integer(kind) or pa.types.is_string(kind)):
                raise DefinitionError(
                    f"The log {table.name} was cut, and its key {key} is compared as {kind}: what "
                    "is read from both sides has whole numbers or texts as keys."
                )
        if pa.types.is_integer(mine) == pa.types.is_integer(theirs):
            pairs.append((quoted(key), quoted(column)))
        else:
            pairs.append((f"{quoted(key)}::VARCHAR", f"{quoted(column)}::VARCHAR"))
    return pairs
