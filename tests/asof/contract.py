"""The contract of a computation, checked for any of them: our own, and a user's.

`violations` asks a computation the same questions over and over, while it takes away what must not
matter, and reports each promise that it breaks, by name (`RULES`). It works on whatever history
the database holds, inside transactions that are rolled back; the database should have no
other user meanwhile, since rows are deleted and rewritten under lock.

What it cannot show:

* Only what the history exercises is shown. A rule without a single row to take away is an error
  (`NothingToShowError`), not a success; but whether the questions come close enough to a
  window's edge is up to who asks. Good moments: `time` and `arrival` of some rows, and
  `time + horizon`.
* Only the primary source (`reads[0]`) is windowed; others (an item's genre) are states.
* That the value is the *right* one needs an oracle (`tests/oracle`).
* Where an answer is rounded coarsely, a dependence on order may hide in the rounding.
* A clock is found in the SQL's text; a function of the user's own that reads one is not.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof import Computation, FeatureColumn, HistorySource
from extensions.engines.duckdb import answers, session, use_history
from extensions.engines.postgresql import compute_as_logged, fetched, history_rows
from extensions.errors import DefinitionError
from tests.asof.asking import Answered, QuestionRow, ask_rows, rows_of, spine_of
from tests.oracle.answers import bits
from tests.oracle.features import Keys

EVENT_TIME = "no leak by event time"
ARRIVAL_TIME = "no leak by arrival time"
HORIZON = "true horizon"
DEFAULT = "declared default"
ROWS = "one row out per row in"
ALONE = "each row on its own"
ORDER = "no dependence on physical order or plan"
READS = "reads what it declares"
CLOCK = "asks no clock"
ENGINE = "the same in every engine"

# Each would have been a reason for some plan to add in another order.
PLANS: dict[str, tuple[str, ...]] = {
    "as planned": (),
    "no hash aggregate": ("enable_hashagg = off",),
    "no sort": ("enable_sort = off", "enable_incremental_sort = off"),
    "no presorted aggregate": ("enable_presorted_aggregate = off",),
    "no nested loop": ("enable_nestloop = off", "enable_memoize = off"),
    "only nested loops": ("enable_hashjoin = off", "enable_mergejoin = off"),
    "bitmaps": ("enable_indexscan = off", "enable_indexonlyscan = off", "enable_seqscan = off"),
    "whole tables": (
        *("enable_indexscan = off", "enable_indexonlyscan = off", "enable_bitmapscan = off"),
    ),
    "indexes": ("enable_seqscan = off", "enable_bitmapscan = off"),
    "as written": ("join_collapse_limit = 1", "from_collapse_limit = 1"),
    "little memory": ("work_mem = '64kB'", "hash_mem_multiplier = 1"),
    "parallel": (
        *("parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0"),
        *("min_parallel_index_scan_size = 0", "max_parallel_workers_per_gather = 2"),
        "debug_parallel_query = on",
    ),
}
_CLOCK = re.compile(
    r"\b(now\s*\(|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday"
    r"|current_(?:date|time|timestamp)|localtime|random\s*\(|gen_random_uuid)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Violation:
    """A promise that a computation broke, and how it was noticed."""

    rule: str
    detail: str


class NothingToShowError(AssertionError):
    """The history holds no row that could break a rule: the check would prove nothing."""


def violations(
    conn: dbapi.Connection,
    computation: Computation,
    questions: Sequence[QuestionRow],
    strangers: Sequence[Keys] | None = None,
) -> list[Violation]:
    """Every rule that the computation breaks on the history in the database.

    Args:
        questions: rows of (keys, as_of); few different moments (each is a pass over the sources).
        strangers: entities in no source; by default, keys that hardly anyone uses.

    Raises:
        NothingToShowError: the history cannot break a rule at any of these moments.
    """
    if strangers is None:
        strangers = [tuple(_stranger(pg_type) for pg_type in computation.key_types)]
    return [
        Violation(rule, detail)
        for rule, check in RULES.items()
        for detail in check(_Subject(conn, computation, list(questions), list(strangers)))
    ]


@dataclass(frozen=True)
class _Subject:
    conn: dbapi.Connection
    computation: Computation
    questions: list[QuestionRow]
    strangers: list[Keys]

    @property
    def moments(self) -> list[datetime]:
        return sorted({as_of for _, as_of in self.questions})

    def ask(self, rows: Sequence[QuestionRow]) -> Counter[Any]:
        return _counted(ask_rows(self.conn, self.computation, rows))

    def execute(self, statement: str | sql.Composable) -> None:
        text = statement if isinstance(statement, str) else statement.as_string(None)
        with self.conn.cursor() as cursor:
            cursor.execute(text)

    def rows_of(self, query: str | sql.Composable) -> list[tuple[Any, ...]]:
        text = query if isinstance(query, str) else query.as_string(None)
        with self.conn.cursor() as cursor:
            cursor.execute(text)
            return list(cursor.fetchall())

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whatever happens inside never happened."""
        self.conn.rollback()
        try:
            yield
        finally:
            self.conn.rollback()


def no_leak_by_event_time(subject: _Subject) -> Iterator[str]:
    """What had not happened at the moment does not matter, even if it was announced."""
    timed = [source for source in subject.computation.reads if source.time != source.arrival]
    yield from _takes_away(subject, timed, "{time} > {at} AND {arrival} <= {at}")


def no_leak_by_arrival_time(subject: _Subject) -> Iterator[str]:
    """What had not arrived at the moment does not matter, even if it had happened."""
    sources = subject.computation.reads
    condition = "{arrival} > {at} AND ({time} <= {at} OR {same})"
    yield from _takes_away(subject, sources, condition)


def true_horizon(subject: _Subject) -> Iterator[str]:
    """What lies before the declared horizon does not matter."""
    horizon = subject.computation.horizon
    if horizon is not None:
        before = sql.SQL("{{time}} <= {{at}} - {}::interval").format(
            sql.Literal(f"{horizon.total_seconds():.6f} seconds")
        )
        primary = subject.computation.reads[:1]
        yield from _takes_away(subject, primary, before.as_string(None))


def declared_default(subject: _Subject) -> Iterator[str]:
    """An entity without history has the declared default, and nobody has null."""
    features = subject.computation.features
    declared = bits(tuple(_default(feature) for feature in features))
    rows = [(keys, moment) for keys in subject.strangers for moment in subject.moments]
    for (keys, moment), answer in subject.ask(rows):
        if answer != declared:
            yield f"{keys} at {moment} has no history and not the default: {answer}"
    for (keys, moment), answer in subject.ask(subject.questions):
        if _holds_null(answer):
            yield f"{keys} at {moment} has null: {answer}"


def one_row_out_per_row_in(subject: _Subject) -> Iterator[str]:
    """The questions come back, each as often as it was asked; also one asked twice."""
    strangers = [(keys, moment) for keys in subject.strangers for moment in subject.moments]
    rows = [*subject.questions, *strangers, *subject.questions[:3], *strangers[:1]]
    asked = Counter(rows)
    got = Counter(question for question, _ in ask_rows(subject.conn, subject.computation, rows))
    for question in asked.keys() | got.keys():
        if asked[question] != got[question]:
            yield f"{question} was asked {asked[question]}x and answered {got[question]}x"


def each_row_on_its_own(subject: _Subject) -> Iterator[str]:
    """An answer does not depend on what else is asked at once, nor in which order."""
    rows = sorted(set(subject.questions))
    together = subject.ask(rows)
    yield from _differences(together, subject.ask(rows[::-1]), "asked in another order")
    apart = sum((subject.ask(rows[n::5]) for n in range(5)), Counter())
    yield from _differences(together, apart, "asked in five parts")
    first, last = rows[0], rows[-1]
    alone = subject.ask([first]) + subject.ask([last])
    both = Counter({row: n for row, n in together.items() if row[0] in (first, last)})
    yield from _differences(both, alone, "asked alone")


def no_dependence_on_order_or_plan(subject: _Subject) -> Iterator[str]:
    """The tables' physical order and the planner's choices do not change a bit."""
    expected = subject.ask(subject.questions)
    for seed in (None, "one", "two"):
        with subject.undone():
            if seed:
                for source in subject.computation.reads:
                    _shuffle(subject, source.table, seed)
            for plan, settings in PLANS.items():
                for setting in settings:
                    subject.execute(f"SET LOCAL {setting}")
                where = f"plan: {plan}; order of rows: {seed or 'as loaded'}"
                yield from _differences(expected, subject.ask(subject.questions), where)
                for setting in settings:
                    subject.execute(f"RESET {setting.split(' ')[0]}")


def reads_what_it_declares(subject: _Subject) -> Iterator[str]:
    """Every table that the SQL reads is a declared source: the engine watches no others."""
    with subject.undone():
        computation = subject.computation
        keys = zip(computation.join_keys, computation.key_types, strict=True)
        columns = "".join(f"{sql.Identifier(key).as_string()} {kind}, " for key, kind in keys)
        subject.execute(f"CREATE TEMP TABLE spine ({columns}as_of timestamptz)")
        subject.execute(f"CREATE TEMP VIEW asked AS {computation.sql}")
        read = subject.rows_of(
            "SELECT DISTINCT c.relname FROM pg_depend AS d "
            "INNER JOIN pg_rewrite AS r ON r.oid = d.objid "
            "INNER JOIN pg_class AS c ON c.oid = d.refobjid "
            "WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass "
            "AND r.ev_class = 'asked'::regclass AND c.relnamespace <> pg_my_temp_schema()"
        )
    declared = {source.table for source in subject.computation.reads}
    for (table,) in read:
        if table not in declared:
            yield f"it reads {table}, which is not among its sources"


def asks_no_clock(subject: _Subject) -> Iterator[str]:
    """The only moment it knows is as_of."""
    text = re.sub(
        r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", " ", subject.computation.sql, flags=re.DOTALL
    )
    for match in _CLOCK.finditer(text):
        yield f"its SQL says {match.group(0)}"


def the_same_in_every_engine(subject: _Subject) -> Iterator[str]:
    """DuckDB answers the questions as PostgreSQL does, to the bit, whatever was stored first."""
    computation = subject.computation
    strangers = [(keys, moment) for keys in subject.strangers for moment in subject.moments]
    with subject.undone(), session() as duck:
        spine = spine_of(computation, [*subject.questions, *strangers])
        expected = compute_as_logged(subject.conn, computation, spine)
        try:
            history = {s.table: history_rows(subject.conn, s) for s in computation.reads}
            use_history(duck, history)
            got = answers(duck, computation, fetched(subject.conn, spine.query)).read_all()
        except DefinitionError as error:
            yield error.message
            return
    yield from _differences(
        _counted(rows_of(expected, computation)), _counted(rows_of(got, computation)), "in DuckDB"
    )


RULES: dict[str, Callable[[_Subject], Iterator[str]]] = {
    EVENT_TIME: no_leak_by_event_time,
    ARRIVAL_TIME: no_leak_by_arrival_time,
    HORIZON: true_horizon,
    DEFAULT: declared_default,
    ROWS: one_row_out_per_row_in,
    ALONE: each_row_on_its_own,
    ORDER: no_dependence_on_order_or_plan,
    READS: reads_what_it_declares,
    CLOCK: asks_no_clock,
    ENGINE: the_same_in_every_engine,
}


def _takes_away(
    subject: _Subject, sources: Sequence[HistorySource], condition: str
) -> Iterator[str]:
    """Per moment and source: delete the rows that meet `condition`, and ask again."""
    for source in sources:
        taken = 0
        for moment in subject.moments:
            rows = [question for question in subject.questions if question[1] == moment]
            where = sql.SQL(condition).format(
                time=sql.Identifier(source.time),
                arrival=sql.Identifier(source.arrival),
                at=sql.SQL("{}::timestamptz").format(sql.Literal(moment)),
                same=sql.Literal(source.time == source.arrival),
            )
            table = sql.Identifier(source.table)
            with subject.undone():
                before = subject.ask(rows)
                count = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(table, where)
                taken += subject.rows_of(count)[0][0]
                subject.execute(sql.SQL("DELETE FROM {} WHERE {}").format(table, where))
                what = f"at {moment}, without the rows of {source.table} that cannot count"
                yield from _differences(before, subject.ask(rows), what)
        if not taken:
            what = condition.format(
                time=source.time, arrival=source.arrival, at="as_of", same="false"
            )
            raise NothingToShowError(
                f"{subject.computation.name}: at no moment asked about does {source.table} "
                f"hold a row with {what}."
            )


def _shuffle(subject: _Subject, table: str, seed: str) -> None:
    columns = subject.rows_of(
        sql.SQL(
            "SELECT attname FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 "
            "AND NOT attisdropped AND attgenerated = ''"
        ).format(sql.Literal(table))
    )
    names = {
        "table": sql.Identifier(table),
        "seed": sql.Literal(seed),
        "columns": sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns),
    }
    for statement in (
        "CREATE TEMP TABLE shuffled AS SELECT * FROM {table} AS t ORDER BY md5(t::text || {seed})",
        "DELETE FROM {table}",
        "INSERT INTO {table} ({columns}) SELECT {columns} FROM shuffled",
        "DROP TABLE shuffled",
        "ANALYZE {table}",
    ):
        subject.execute(sql.SQL(statement).format(**names))


def _counted(answered: Answered) -> Counter[Any]:
    return Counter((question, bits(answer)) for question, answer in answered)


def _differences(expected: Counter[Any], got: Counter[Any], where: str) -> Iterator[str]:
    """One complaint, however many rows differ."""
    missing, extra = expected - got, got - expected
    if missing or extra:
        before = min(missing, key=lambda row: row[0], default=None)
        after = min(extra, key=lambda row: row[0], default=None)
        yield f"{where}: {missing.total()} answers changed, {before} to {after}"


def _holds_null(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and any(map(_holds_null, value)))


def _stranger(pg_type: str) -> Any:
    return {"bigint": -(2**62), "integer": -(2**30)}.get(pg_type, "nobody at all")


def _default(feature: FeatureColumn) -> Any:
    """The declared default as the engine's Arrow holds it."""
    value = feature.default
    if feature.pg_type == "real[]":
        return tuple(np.float32(part) for part in value)
    if feature.pg_type == "real":
        return np.float32(value)
    if feature.pg_type == "double precision":
        return float(value)
    if feature.pg_type == "timestamptz":
        return datetime.fromtimestamp(value, tz=UTC)
    return tuple(value) if isinstance(value, list) else value
