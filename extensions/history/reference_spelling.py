"""Reference values: columns whose values another table explains, spelt as that table spells them.

A computation that looks up a value which the reference table spells otherwise finds nothing, and
counts the row for nothing, in silence. Which columns these are is declared in SQL, in
``reference_columns``.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from extensions.database import connect
from extensions.database.connection import identifiers
from extensions.errors import ConfigurationError
from extensions.sources import HistoryTable

_SAMPLES = 3
# Beyond so many different values that are not known, only their rows are counted.
_COUNTED = 10_000
# What spellings differ in; other signs may tell values apart (C, C++ and C#).
_PASSED_BY = re.compile(r"[\s\-_.'’]+")


@dataclass(frozen=True)
class Reference:
    """Values of ``table.column`` are looked up in ``reference_table.reference_column``."""

    table: str
    column: str
    reference_table: str
    reference_column: str


@dataclass(frozen=True)
class UnknownValues:
    """Rows of a reference's table whose value is not known, with the most frequent ones."""

    reference: Reference
    rows: int
    samples: tuple[tuple[str, int], ...]


@dataclass
class Spelling:
    """Rewrites values to the reference's spelling where only one is meant, and counts.

    ``known``: the reference's values.
    """

    reference: Reference
    known: Iterable[str]
    _respelt: Counter[tuple[str, str]] = field(default_factory=Counter)
    _unknown: Counter[str] = field(default_factory=Counter)
    _unknown_rows: int = 0

    def __post_init__(self) -> None:
        self._exact = frozenset(self.known)
        spelt = defaultdict(list)
        for value in self._exact:
            spelt[folded(value)].append(value)
        self._meant: Mapping[str, str] = {
            fold: values[0] for fold, values in spelt.items() if fold and len(values) == 1
        }

    def respell(self, values: pa.Array) -> pa.Array:
        """The same strings (no nulls), those that were spelt otherwise in the reference's way."""
        if not len(values):
            return values
        encoded = values.dictionary_encode()
        counts = {
            each["values"]: each["counts"] for each in encoded.indices.value_counts().to_pylist()
        }
        spelt = encoded.dictionary.to_pylist()
        for place, value in enumerate(spelt):
            if value in self._exact:
                continue
            meant = self._meant.get(folded(value))
            if meant is not None:
                self._respelt[value, meant] += counts[place]
                spelt[place] = meant
                continue
            self._unknown_rows += counts[place]
            if value in self._unknown or len(self._unknown) < _COUNTED:
                self._unknown[value] += counts[place]
        return pc.take(pa.array(spelt, values.type), encoded.indices)

    def notes(self) -> list[str]:
        """What was rewritten, and what is not known, in sentences."""
        of = self.reference
        notes = []
        if self._respelt:
            (value, meant), _ = self._respelt.most_common(1)[0]
            notes.append(
                f"{of.column}: {self._respelt.total()} rows spelt otherwise than in the table "
                f"{of.reference_table} were read as it spells them, such as {value!r} as {meant!r}."
            )
        if self._unknown_rows:
            samples = ", ".join(f"{v!r}" for v, _ in self._unknown.most_common(_SAMPLES))
            notes.append(
                f"{of.column}: {self._unknown_rows} rows hold a value that the table "
                f"{of.reference_table} does not know (such as {samples}): features that look it up "
                f"count these rows for nothing. Add the values to {of.reference_table}, or import "
                "corrected rows."
            )
        return notes


def folded(value: str) -> str:
    """What spellings of one value have in common: no case, blanks, hyphens or points."""
    return _PASSED_BY.sub("", unicodedata.normalize("NFKC", value).casefold())


def references(conn: psycopg.Connection, table: str | None = None) -> list[Reference]:
    """The declared references, of one table or of all."""
    rows = conn.execute(
        "SELECT table_name, column_name, reference_table, reference_column "
        "FROM reference_columns WHERE table_name = coalesce(%s, table_name) ORDER BY 1, 2",
        [table],
    ).fetchall()
    return [Reference(*row) for row in rows]


def spellings(url: str, table: str) -> dict[str, Spelling]:
    """By column, how the references of ``table`` spell their values.

    Raises:
        ConfigurationError: the database does not answer, or has no tables yet.
    """
    with connect(url, name="skewless import") as conn:
        try:
            found = references(conn, table)
        except psycopg.errors.UndefinedTable as error:
            raise ConfigurationError(
                "The database has no Skewless tables yet: run `skewless migrate` first."
            ) from error
        return {
            each.column: Spelling(each, [row[0] for row in conn.execute(_known(each))])
            for each in found
        }


def unknown_values(
    conn: psycopg.Connection, tables: Mapping[str, HistoryTable] | None = None
) -> list[UnknownValues]:
    """Every declared reference with stored rows whose value is not known.

    Args:
        conn: To the database.
        tables: By table, the declared ones: of those whose rows have no ids, and so say what a key
            is from a time on, each key's newest row counts alone.
    """
    declared = tables or {}
    found = []
    for reference in references(conn):
        counts = conn.execute(_unknown(reference, declared.get(reference.table))).fetchall()
        if counts:
            rows = sum(count for _, count in counts)
            found.append(UnknownValues(reference, rows, tuple(counts[:_SAMPLES])))
    return found


def _known(of: Reference) -> sql.Composed:
    return sql.SQL("SELECT DISTINCT {column}::text FROM {table}").format(
        column=sql.Identifier(of.reference_column), table=sql.Identifier(of.reference_table)
    )


def _unknown(of: Reference, declared: HistoryTable | None) -> sql.Composed:
    rows: sql.Composable = sql.Identifier(of.table)
    if declared is not None and declared.id is None:
        newest = dict.fromkeys([declared.time, declared.arrival])
        rows = sql.SQL(
            "(SELECT DISTINCT ON ({keys}) * FROM {table} ORDER BY {keys}, {newest})"
        ).format(
            keys=identifiers(declared.keys), table=rows,
            newest=sql.SQL(", ").join(
                sql.SQL("{} DESC").format(sql.Identifier(name)) for name in newest
            ),
        )  # fmt: skip
    return sql.SQL(
        "SELECT v.{column}::text, count(*) FROM {table} AS v "
        "WHERE v.{column} IS NOT NULL AND NOT EXISTS "
        "(SELECT FROM {reference} AS r WHERE r.{reference_column} = v.{column}) "
        "GROUP BY 1 ORDER BY 2 DESC, 1"
    ).format(
        column=sql.Identifier(of.column),
        table=rows,
        reference=sql.Identifier(of.reference_table),
        reference_column=sql.Identifier(of.reference_column),
    )
