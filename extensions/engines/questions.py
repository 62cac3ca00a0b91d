"""Questions to put to both engines: instants at which answers may change, and the history for them.

Each sampled row of the primary source gives its entity and some instants: when the row became
known, just before, and when it leaves the window. Strangers and a late instant are asked, too. The
other engine gets a slice of history, cut as the engine's spines assume: of a source that bears the
join keys the rows of these entities, of others the rows that these refer to, else all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.asof.spine import Spine, SpineFragments
from extensions.database.connection import identifiers
from extensions.engines.postgresql import fetched, history_rows

# Rows of a table that are looked at for a sample, and the most that a slice of one may have.
SAMPLED_FROM = 20_000
MOST_ROWS = 200_000
# Others are preferred to more of one entity: by rows alone the busiest would be asked about most.
ROWS_OF_AN_ENTITY = 2
_TICK = timedelta(microseconds=1)
_PER_ROW = 4


@dataclass(frozen=True)
class Questions:
    """``rows``: (join keys…, as_of), each once."""

    rows: tuple[tuple[Any, ...], ...]

    def spine(self, computation: Computation) -> Spine:
        """The questions as a spine."""
        return Spine.of(self.rows, computation)

    def parts(self, first: int) -> tuple["Questions", "Questions"]:
        """About ``first`` of them, spread over the sample, and the others."""
        step = max(1, len(self.rows) // first)
        others = (row for place, row in enumerate(self.rows) if place % step)
        return Questions(self.rows[::step]), Questions(tuple(others))

    def first(self, number: int) -> "Questions":
        """So many of them."""
        return Questions(self.rows[:number])

    def of_fewer_entities(self, width: int) -> "Questions":
        """Those of every other entity; ``width``: join keys."""
        kept = set(sorted({row[:width] for row in self.rows}, key=str)[::2])
        return Questions(tuple(row for row in self.rows if row[:width] in kept))


def questions_of(
    conn: dbapi.Connection, computation: Computation, count: int, seed: int = 0
) -> Questions:
    """About ``count`` questions about entities of the real history; none where it has no rows.

    ``seed``: which of them, the same for the same seed and history.
    """
    source = computation.reads[0]
    names = [*computation.join_keys, source.time, source.arrival]
    kinds = [*computation.key_types, "timestamptz", "timestamptz"]
    query = sql.SQL(
        "SELECT {typed} FROM (SELECT *, row_number() OVER ("
        "PARTITION BY {keys} ORDER BY md5({seed} || picked::text)) AS place FROM ("
        "SELECT {fields} FROM {table} {part} WHERE {present} LIMIT {scanned}) AS picked ({aliases})"
        ") AS placed ORDER BY (place - 1) / {each}, md5({seed} || placed::text) LIMIT {count}"
    )
    aliases = [sql.Identifier(f"c{place}") for place in range(len(names))]
    part = _part_of(conn, source, seed)
    # Of pages with few rows a sample may be empty.
    for each in (part, sql.SQL("")):
        sampled = fetched(
            conn,
            query.format(
                typed=sql.SQL(", ").join(
                    sql.SQL("{}::{}").format(alias, sql.SQL(kind))
                    for alias, kind in zip(aliases, kinds, strict=True)
                ),
                fields=identifiers(names),
                table=sql.Identifier(source.table),
                part=each,
                present=sql.SQL(" AND ").join(
                    sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in names
                ),
                scanned=sql.Literal(SAMPLED_FROM),
                aliases=sql.SQL(", ").join(aliases),
                keys=sql.SQL(", ").join(aliases[:-2]),
                each=sql.Literal(ROWS_OF_AN_ENTITY),
                count=sql.Literal(max(1, count // _PER_ROW)),
                seed=sql.Literal(str(seed) if seed else ""),
            ),
        )
        if sampled.num_rows:
            break
    columns = [column.to_pylist() for column in sampled.columns]
    return Questions(tuple(_instants(computation, list(zip(*columns, strict=True)))))


def _instants(
    computation: Computation, sampled: Sequence[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    if not sampled:
        return []
    width = len(computation.join_keys)
    latest = max(max(row[width:]) for row in sampled)
    asked: dict[tuple[Any, ...], None] = {}
    for number, row in enumerate(sampled):
        keys, known = row[:width], max(row[width:])
        instants = [known, known - _TICK]
        if windows := computation.windows:
            # Where it leaves one of them, and just before: one instant for each row.
            window = windows[-1 - number // 2 % len(windows)]
            instants.append(row[width] + window - number % 2 * _TICK)
        instants.append(latest)
        asked |= {(*keys, instant): None for instant in instants}
    return list(asked)


def _part_of(conn: dbapi.Connection, source: HistorySource, seed: int) -> sql.Composable:
    """``TABLESAMPLE`` of a large table, by pages; nothing of a small one, or of a view."""
    [found] = fetched(
        conn,
        sql.SQL(
            "SELECT bool_and(relkind IN ('r', 'p')) AS plain, sum(greatest(reltuples, 0))::float8 "
            "AS rows FROM pg_class WHERE oid IN (SELECT relid FROM pg_partition_tree({name}) "
            "UNION SELECT to_regclass({name}))"
        ).format(name=sql.Literal(sql.Identifier(source.table).as_string(None))),
    ).to_pylist()
    rows = found["rows"] or 0.0
    if not found["plain"] or rows <= SAMPLED_FROM:
        return sql.SQL("")
    # Twice as much as is taken, since pages are filled unevenly.
    percent = min(100.0, 200.0 * SAMPLED_FROM / rows)
    return sql.SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE ({})").format(
        sql.Literal(percent), sql.Literal(seed)
    )


def slice_for(
    conn: dbapi.Connection, computation: Computation, questions: Questions
) -> dict[str, pa.Table] | None:
    """The history that can count for the questions, by table; None: it is more than `MOST_ROWS`."""
    slices: dict[str, pa.Table] = {}
    for source in computation.reads:
        condition = sql.SQL("{} LIMIT {}").format(
            _condition(computation, source, questions), sql.Literal(MOST_ROWS + 1)
        )
        slices[source.table] = history_rows(conn, source, condition)
        if slices[source.table].num_rows > MOST_ROWS:
            return None
    return slices


def _condition(
    computation: Computation, source: HistorySource, questions: Questions
) -> sql.Composable:
    build = SpineFragments(computation)
    if source in build.bearing:
        return _of_entities(computation, source, questions)
    shared = build.shared_keys(source)
    if not shared:
        return sql.SQL("TRUE")
    keys = sql.SQL(", ").join(map(sql.Identifier, shared))
    return sql.SQL("({keys}) IN (SELECT {keys} FROM {primary} WHERE {condition})").format(
        keys=keys,
        primary=sql.Identifier(build.primary.table),
        condition=_of_entities(computation, build.primary, questions),
    )


def _of_entities(
    computation: Computation, source: HistorySource, questions: Questions
) -> sql.Composable:
    """Rows of the entities that are asked about, and of no time before any question's window."""
    width = len(computation.join_keys)
    entities = list({row[:width] for row in questions.rows})
    arrays = sql.SQL(", ").join(
        sql.SQL("{}::{}[]").format(
            sql.Literal([keys[place] for keys in entities]), sql.SQL(pg_type)
        )
        for place, pg_type in enumerate(computation.key_types)
    )
    condition = sql.SQL("({keys}) IN (SELECT * FROM unnest({arrays}) AS asked)").format(
        keys=sql.SQL(", ").join(map(sql.Identifier, computation.join_keys)), arrays=arrays
    )
    if computation.horizon is None:
        return condition
    first = min(row[width] for row in questions.rows) - computation.horizon
    return sql.SQL("{} AND {} >= {}").format(
        condition, sql.Identifier(source.time), sql.Literal(first)
    )
