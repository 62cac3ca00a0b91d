"""History tables: what happened, row by row, in columns that the repository chose."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from extensions.asof.computation import HistorySource
from extensions.database.identifier_limits import bounded_name


@dataclass(frozen=True)
class Column:
    """A column of a history table.

    ``pg_type`` is spelled as PostgreSQL's ``format_type`` without a modifier spells it
    (``bigint``, ``timestamp with time zone``), ``full_type`` with it (``numeric(12,2)``).
    ``default`` is the SQL expression of the default; a ``generated`` column, or one of identity,
    is never written.
    """

    name: str
    pg_type: str
    nullable: bool = True
    default: str | None = None
    generated: bool = False
    full_type: str = ""

    @property
    def cast_type(self) -> str:
        """The type that a value is cast to without being cut to a length.

        A cast to ``character`` or ``bit`` without a length means one of them.
        """
        return {"character": "bpchar", "bit": "bit varying"}.get(self.pg_type, self.pg_type)

    @property
    def has_default(self) -> bool:
        """Whether a row without a value gets one."""
        return self.default is not None

    @property
    def required(self) -> bool:
        """Whether a row must bring a value."""
        return not (self.nullable or self.has_default or self.generated)


@dataclass(frozen=True)
class HistoryTable:
    """A declared history table with its columns from the catalogue.

    Attributes:
        name: The Feast source's name.
        source: Table, keys, event time and arrival, as computations know it.
        columns: All columns, in the table's order.
        id: The column that identifies a row, from the tag ``id``: of rows with equal ids the
            first one to arrive stays. None: every row is stored.
        partition: ``month``, ``day`` or None, from the tag ``partition``: the engine makes the
            partitions of a table that is partitioned by its time.
        deleted: The boolean column that says that a row ends its entity's value, from the tag
            ``deleted``.
        oldest: Rows of an earlier event time are refused, from the tag ``oldest``.
        imports: By column, an SQL expression over a file's columns that an import takes where the
            file has them, from the tags ``import.<column>``.
    """

    name: str
    source: HistorySource
    columns: tuple[Column, ...]
    id: str | None
    partition: str | None
    deleted: str | None
    oldest: datetime
    imports: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def table(self) -> str:
        """The table's name in PostgreSQL."""
        return self.source.table

    @property
    def keys(self) -> tuple[str, ...]:
        """The entities' key columns."""
        return self.source.keys

    @property
    def time(self) -> str:
        """The column of the event time."""
        return self.source.time

    @property
    def arrival(self) -> str:
        """The column of the arrival; the event time where none is declared."""
        return self.source.arrival

    @property
    def has_arrival(self) -> bool:
        """Whether arrival is a column of its own."""
        return self.arrival != self.time

    @property
    def id_table(self) -> str:
        """The table that makes ids unique over all partitions: ``(id, time)``, engine's own."""
        return bounded_name(f"{self.table}_ids")

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """The columns by their names."""
        return {column.name: column for column in self.columns}

    @cached_property
    def written(self) -> tuple[Column, ...]:
        """The columns that a writer can give, in the table's order."""
        return tuple(column for column in self.columns if not column.generated)
