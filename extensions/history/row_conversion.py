"""A file's rows as rows of a table: expressions, conversion, ids, arrivals and spelling."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from extensions.history.column_mapping import ColumnPlan, Constant, Expression, FileColumn, Origin
from extensions.history.column_types import TIMES
from extensions.history.event_id_generation import EventIds
from extensions.history.file_expressions import Evaluated, FileExpressions
from extensions.history.file_rows import Rows, TableFile
from extensions.history.import_rules import ArrivalRule, TimeBounds
from extensions.history.parsed_values import Mask
from extensions.history.reference_spelling import Spelling
from extensions.history.time_conversion import Times
from extensions.history.value_conversion import Converter, converted, converter_of
from extensions.sources import Column
from extensions.sources.ingest import arrow_of
from extensions.sources.type_modifiers import LONGEST_KEYS, time_digits, too_long_for_an_index
from extensions.value_text import time_text


@dataclass(frozen=True)
class ConvertedRows:
    """Rows of a file (those that --where takes), what is wrong with which, and the good ones.

    ``accepted`` are the rows ``good`` as the table takes them.
    """

    rows: Rows
    problems: list[tuple[Mask, str]]
    good: Mask
    accepted: pa.RecordBatch


class RowConversion:
    """Converts a file's batches to the table's columns, in the file's order."""

    def __init__(
        self,
        plan: ColumnPlan,
        file: TableFile,
        what: str,
        *,
        where: str | None,
        time_formats: Mapping[str, str],
        bounds: TimeBounds,
        rule: ArrivalRule,
        ids: EventIds | None,
        spelling: Mapping[str, Spelling],
    ) -> None:
        self._plan, self._table = plan, plan.table
        self._rule, self._ids, self._spelling = rule, ids, spelling
        self._what = what
        # Where commas part the values, a comma within one is rather one of thousands.
        comma = file.delimiter not in ("", ",")
        self._expressions = FileExpressions(
            what,
            file.columns,
            {n: o.text for n, o in plan.origins.items() if isinstance(o, Expression)},
            where,
            decimal_comma=comma,
        )
        self._times: dict[str, Times] = {}
        self._converters = {
            name: self._converter(
                self._table.by_name[name], origin, time_formats, bounds, decimal_comma=comma
            )
            for name, origin in plan.origins.items()
        }
        self.left_out = 0

    def convert(self, rows: Rows) -> ConvertedRows:
        """The rows of a batch; those that are refused are not among ``accepted``."""
        found = self._expressions.evaluate(rows.batch)
        if not found.kept.all():
            self.left_out += int((~found.kept).sum())
            rows = Rows(rows.batch.filter(pa.array(found.kept)), rows.numbers[found.kept],
                        rows.unreadable)  # fmt: skip
            found = _filtered(found)
        count = rows.batch.num_rows
        problems: list[tuple[Mask, str]] = [
            (mask, f"{name}: the expression fails") for name, mask in found.failed.items()
        ]
        columns: dict[str, pa.Array] = {}
        for name, origin in self._plan.origins.items():
            column = self._table.by_name[name]
            values = self._values(origin, name, rows, found)
            failed = found.failed.get(name)
            outcome = converted(
                self._converters[name], column, values, required=self._is_required(column)
            )
            columns[name] = outcome.values
            problems += [
                (mask & ~failed if failed is not None else mask, why)
                for mask, why in outcome.problems
            ]
        problems += self._long_keys(columns)
        bad = np.zeros(count, bool)
        for mask, _ in problems:
            bad |= mask
        good = ~bad
        keep = pa.array(good)
        accepted = {name: array.filter(keep) for name, array in columns.items()}
        return ConvertedRows(rows, problems, good, self._completed(accepted, int(good.sum())))

    def _long_keys(self, columns: Mapping[str, pa.Array]) -> list[tuple[Mask, str]]:
        """Rows whose ids no index of ids holds."""
        found: list[tuple[Mask, str]] = []
        for indexed in (self._table.keys, (self._table.id or "",)):
            texts = {
                name: columns[name]
                for name in indexed
                if name in columns and pa.types.is_string(columns[name].type)
            }
            if texts:
                lengths = [pc.fill_null(pc.binary_length(each), 0) for each in texts.values()]
                total = sum(each.to_numpy(zero_copy_only=False) for each in lengths)
                found.append((total > LONGEST_KEYS, too_long_for_an_index(list(texts))))
        return found

    def notes(self) -> list[str]:
        """What was assumed, in sentences; after all rows were converted."""
        table = self._table
        notes = [note for converter in self._converters.values() for note in converter.notes()]
        if old := self._times[table.time].too_old:
            notes.append(
                f"{table.time}: {old} rows are older than {time_text(table.oldest)}, the oldest "
                f"time that the source {table.name} takes. If they are right, give the source in "
                'sources.py the tag "oldest", such as "1990-01-01".'
            )
        notes += [note for spelling in self._spelling.values() for note in spelling.notes()]
        if self._ids:
            notes.append(f"{table.id}: derived from {', '.join([*table.keys, table.time])} "
                         "and repetition.")  # fmt: skip
        if table.has_arrival and table.arrival not in self._plan.origins:
            notes.append(self._rule.note(table))
        for column in table.written:
            if column.name in (table.id, table.arrival) or column.name in self._plan.origins:
                continue
            what = f"its default, {column.default}" if column.has_default else "null"
            notes.append(f"{column.name}: no column, so {what}.")
        if self.left_out:
            notes.append(f"{self.left_out} rows were left out by --where.")
        return notes

    def described(self) -> dict[str, str]:
        """What each of the table's columns is made of."""
        table = self._table
        made = {}
        for column in table.written:
            if column.name in self._plan.origins:
                made[column.name] = str(self._plan.origins[column.name])
            elif column.name == table.id:
                made[column.name] = "derived from keys, time and repetition"
            elif column.name == table.arrival:
                made[column.name] = "the time" if self._rule.at_event_time else "now"
            else:
                made[column.name] = (
                    f"its default, {column.default}" if column.has_default else "null"
                )
        return made

    def _is_required(self, column: Column) -> bool:
        table = self._table
        needed = (*table.keys, table.time, table.id)
        if column.name == table.arrival and table.has_arrival:
            # One that is left out has a rule; one that is there must say it.
            return True
        # A default is for files that do not have the column; a hole in one that they have is none.
        return not column.nullable or column.name in needed

    def _values(self, origin: Origin, name: str, rows: Rows, found: Evaluated) -> pa.Array:
        if isinstance(origin, FileColumn):
            return rows.batch.column(origin.place)
        if isinstance(origin, Constant):
            return pa.array([origin.text] * rows.batch.num_rows, pa.string())
        return found.values[name]

    def _converter(
        self,
        column: Column,
        origin: Origin,
        formats: Mapping[str, str],
        bounds: TimeBounds,
        *,
        decimal_comma: bool,
    ) -> Converter:
        scale = origin.scale if isinstance(origin, FileColumn) else 1.0
        if column.pg_type not in TIMES:
            return converter_of(column, scale=scale, decimal_comma=decimal_comma)
        form = formats.get(column.name)
        if form is None and isinstance(origin, FileColumn):
            form = formats.get("")
        low = bounds.low if column.name in (self._table.time, self._table.arrival) else None
        high = {self._table.arrival: bounds.arrival_high, self._table.time: bounds.high}.get(
            column.name
        )
        self._times[column.name] = Times(
            column.name, low_us=low, high_us=high, form=form, digits=time_digits(column)
        )
        return self._times[column.name]

    def _completed(self, columns: dict[str, pa.Array], count: int) -> pa.RecordBatch:
        """The accepted rows with their ids and arrivals, values spelt as their references are."""
        table = self._table
        for name, spelling in self._spelling.items():
            if name in columns and pa.types.is_string(columns[name].type):
                columns[name] = spelling.respell(columns[name])
        if self._ids and count:
            moments = columns[table.time].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
            keys = [columns[key] for key in table.keys]
            columns[str(table.id)] = self._ids.derive(keys, moments)
        elif self._ids:
            columns[str(table.id)] = pa.array([], pa.string())
        if table.has_arrival and table.arrival not in columns:
            kind = arrow_of(table.by_name[table.arrival])
            columns[table.arrival] = (
                columns[table.time].cast(kind)
                if self._rule.at_event_time
                else pa.nulls(count, kind)
            )
        names = [column.name for column in table.written if column.name in columns]
        return pa.RecordBatch.from_arrays([columns[name] for name in names], names=names)


def _filtered(found: Evaluated) -> Evaluated:
    kept: npt.NDArray[np.bool_] = found.kept
    mask = pa.array(kept)
    return Evaluated(
        np.ones(int(kept.sum()), bool),
        {name: values.filter(mask) for name, values in found.values.items()},
        {name: failed[kept] for name, failed in found.failed.items()},
    )
