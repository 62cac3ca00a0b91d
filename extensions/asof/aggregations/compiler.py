"""Compiling declared aggregations to the SQL text of a view version.

The text keeps the contract of a computation by its form: every relation is the view's one source,
cut to rows of the entity that happened in ``(as_of - window, as_of]`` and had arrived by then;
filters see the row's own columns only; whatever depends on the order of rows names it; what finds
no row is the feature's default.

The order is the event time, then the source's id (tag ``id``) as text, bytewise. Without an id it
is the values of the columns whose order matters: rows that agree in these are interchangeable.

Numbers: a whole-number sum is exact (``sum(bigint)`` is numeric) and cast back, so one that is out
of its type's range is an error, never a wrong value. Fractions are computed in double precision
and rounded once to the feature's type. Zero has no sign (``+ 0`` also makes a real a double). What
would underflow is zero; what overflows a double is an error.

A change of this module may change the text of a view, but not of one that is published
(docs/decisions/0044-compiled-text-stays.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from extensions.asof.aggregations.declaration import AggregatedFeature, longest
from extensions.asof.aggregations.functions import FLOATS, WHOLE
from extensions.asof.aggregations.source_rows import SourceRows, value_of
from extensions.asof.aggregations.sql_fragments import (
    conditions,
    divided,
    indented,
    listed,
    literal,
    name,
    single,
)
from extensions.asof.computation import FeatureColumn, HistorySource

# What is nearer to zero has no part in a product or a square, which could underflow.
_SMALLEST_FACTOR = "1e-200"
_SMALLEST_SQUARED = "1e-150"
_DOUBLE = "::double precision"
_ELEMENT_TYPES = {"INT32": "integer", "INT64": "bigint", "STRING": "text", "BOOL": "boolean"}


@dataclass(frozen=True)
class AggregatedView:
    """What a text is compiled from; ``features`` and ``columns`` go together.

    Attributes:
        view: The view's name, for the head of the text.
        keys: The join keys, which are columns of the source.
        source: The history that is aggregated.
        id_column: The column that identifies a row, if the source has one.
        filter: The condition that all rows must meet.
        features: What is aggregated.
        columns: The features' types and defaults, in the order of the result.
    """

    view: str
    keys: tuple[str, ...]
    source: HistorySource
    id_column: str | None
    filter: str | None
    features: tuple[AggregatedFeature, ...]
    columns: tuple[FeatureColumn, ...]


def compiled_sql(view: AggregatedView) -> str:
    """The SQL text: a SELECT over ``spine``, as a hand-written computation is."""
    return "\n".join(_Compiler(view).lines())


@dataclass(frozen=True)
class _Aggregate:
    """An aggregate over an entity's rows ``e``: column ``alias`` of the relation ``w``."""

    alias: str
    call: str
    cast: str
    feature: AggregatedFeature


class _Compiler:
    def __init__(self, view: AggregatedView) -> None:
        self._view = view
        self._rows = SourceRows(view.source, view.keys, view.id_column, view.filter, view.features)
        self._time = f"e.{name(view.source.time)}"
        self._aggregates: list[_Aggregate] = []
        self._joins: list[str] = []
        self._fractions: list[str] = []

    def lines(self) -> list[str]:
        """The text; what the relations must hold follows from the features."""
        select = [f"s.{name(key)}" for key in self._view.keys] + ["s.as_of"]
        pairs = zip(self._view.features, self._view.columns, strict=True)
        for number, (feature, column) in enumerate(pairs, start=1):
            select.append(f"{self._output(number, feature, column)} AS {name(feature.name)}")
        return [
            f"-- The declared aggregations of {self._view.view}, compiled.",
            *self._rows.common_table(),
            "SELECT",
            *indented(listed([[each] for each in select])),
            "FROM spine AS s",
            *self._plain_aggregates(),
            *self._joins,
            *self._doubles(),
        ]

    # What is selected: each value in its type, or its default.

    def _output(self, number: int, feature: AggregatedFeature, column: FeatureColumn) -> str:
        if feature.function in ("count", "count_distinct"):
            return self._count(number, feature, column)
        value = self._value(number, feature)
        if feature.type_name in FLOATS and not feature.kind.makes_list:
            value = self._fraction(number, feature, value)
        elif not feature.kind.makes_list:
            value = f"{value}::{column.pg_type}"
        if column.default is None:
            return value
        return f"coalesce({value}, {literal(column.default, column.pg_type)})"

    def _count(self, number: int, feature: AggregatedFeature, column: FeatureColumn) -> str:
        counted = f"e.{name(feature.column)}" if feature.column else "*"
        if feature.function == "count_distinct":
            counted = f"DISTINCT {counted}"
        found = self._aggregate(f"n_{number}", f"count({counted})", feature)
        if column.pg_type != "bigint":
            found = f"{found}::{column.pg_type}"
        if column.default is None:
            return f"nullif({found}, 0)"
        if column.default == 0:
            return found
        return f"coalesce(nullif({found}, 0), {literal(column.default, column.pg_type)})"

    def _fraction(self, number: int, feature: AggregatedFeature, value: str) -> str:
        """A double, divided as declared and rounded to the feature's type."""
        by = f"{feature.divide_by}" if feature.divide_by else None
        if feature.function == "mean":
            rows = self._aggregate(f"n_{number}", f"count(e.{name(feature.column)})", feature)
            by = f"({rows} * {by})" if by else rows
        if by:
            value = divided(value, f"{by}{_DOUBLE}")
        self._fractions.append(f"{value} AS value_{number}")
        found = f"v.value_{number}"
        return single(found) if feature.type_name == "FLOAT32" else found

    def _doubles(self) -> list[str]:
        """The fractions as doubles, each rounded once more where it is selected."""
        if not self._fractions:
            return []
        body = ["SELECT", *indented(listed([[value] for value in self._fractions]))]
        return ["CROSS JOIN LATERAL (", *indented(body), ") AS v"]

    # How each function is computed.

    def _value(self, number: int, feature: AggregatedFeature) -> str:
        makers = {
            "first": self._edge,
            "last": self._edge,
            "last_n": self._latest_list,
            "top_k": self._frequent_list,
            "time_since": self._age,
            "stddev": self._deviation,
            "min": self._extreme,
            "max": self._extreme,
        }
        return makers.get(feature.function, self._sum)(number, feature)

    def _age(self, number: int, feature: AggregatedFeature) -> str:
        """Seconds since the last row."""
        latest = self._aggregate(f"at_{number}", f"max({self._time})", feature)
        seconds = f"extract(EPOCH FROM s.as_of - {latest})"
        return f"floor({seconds})" if feature.type_name in WHOLE else f"{seconds}{_DOUBLE}"

    def _extreme(self, number: int, feature: AggregatedFeature) -> str:
        cast = _DOUBLE if feature.type_name in FLOATS else ""
        call = f"{feature.function}({value_of(feature)})"
        return self._aggregate(f"{feature.function}_{number}", call, feature, cast)

    def _sum(self, number: int, feature: AggregatedFeature) -> str:
        """Of whole numbers exact; of fractions, decayed or not, in the order of the rows."""
        if feature.type_name in WHOLE:
            return self._aggregate(f"sum_{number}", f"sum({value_of(feature)})", feature)
        term = value_of(feature) if feature.decay is None else self._faded(feature)
        call = f"sum({term} ORDER BY {self._rows.order()})"
        return self._aggregate(f"sum_{number}", call, feature, _DOUBLE)

    def _faded(self, feature: AggregatedFeature) -> str:
        """A row's part in a decayed sum or count."""
        assert feature.decay is not None  # the function has one
        age = f"extract(EPOCH FROM s.as_of - {self._time}){_DOUBLE} / {feature.decay.unit}"
        weight = f"exp(-{feature.decay.rate} * ({age}))"
        if not feature.column:
            return weight
        column = f"e.{name(feature.column)}"
        small = f"{column} BETWEEN -{_SMALLEST_FACTOR} AND {_SMALLEST_FACTOR}"
        return f"CASE WHEN {small} THEN 0 ELSE {column} + 0 END * {weight}"

    def _deviation(self, number: int, feature: AggregatedFeature) -> str:
        """The sample's standard deviation, in two passes: the mean, then the squares."""
        total = self._sum(number, feature)
        rows = self._aggregate(f"n_{number}", f"count(e.{name(feature.column)})", feature)
        mean = divided(total, f"{rows}{_DOUBLE}")
        square = f"CASE WHEN abs(d.value) < {_SMALLEST_SQUARED} THEN 0 ELSE d.value * d.value END"
        order = self._rows.order_of("d")
        self._joins += [
            "CROSS JOIN LATERAL (",
            *indented([f"SELECT sum({square} ORDER BY {order}) AS squares", "FROM ("]),
            *indented(self._rows.select(feature, f"({value_of(feature)}){_DOUBLE} - {mean}"), 2),
            *indented([") AS d"]),
            f") AS f{number}",
        ]
        return f"sqrt(f{number}.squares / nullif({rows} - 1, 0){_DOUBLE})"

    def _edge(self, number: int, feature: AggregatedFeature) -> str:
        """The value of the first or the last row."""
        direction = "" if feature.function == "first" else " DESC"
        self._joins += [
            "LEFT JOIN LATERAL (",
            *indented(self._rows.select(feature, _element(feature), ties=False)),
            *indented([f"ORDER BY {self._rows.order(direction)}", "LIMIT 1"]),
            f") AS f{number} ON TRUE",
        ]
        return f"f{number}.value"

    def _latest_list(self, number: int, feature: AggregatedFeature) -> str:
        """The values of the last rows, the latest first."""
        inner = [
            *self._rows.select(feature, _element(feature)),
            f"ORDER BY {self._rows.order(' DESC')}",
            f"LIMIT {feature.limit}",
        ]
        return self._list(number, feature, inner, self._rows.order_of("l", " DESC"))

    def _frequent_list(self, number: int, feature: AggregatedFeature) -> str:
        """The most frequent values; of equally frequent ones the latest, then the least."""
        found = ["count(*) AS n", f"max({self._time}) AS latest"]
        inner = [
            *self._rows.select(feature, _element(feature), *found, ties=False),
            f"GROUP BY {_element(feature)}",
            "ORDER BY n DESC, latest DESC, value",
            f"LIMIT {feature.limit}",
        ]
        return self._list(number, feature, inner, "l.n DESC, l.latest DESC, l.value")

    def _list(
        self, number: int, feature: AggregatedFeature, inner: Sequence[str], order: str
    ) -> str:
        kind = _ELEMENT_TYPES.get(feature.type_name, "double precision")
        value = single("l.value") if feature.type_name == "FLOAT32" else f"l.value::{kind}"
        self._joins += [
            "CROSS JOIN LATERAL (",
            *indented([f"SELECT array_agg({value} ORDER BY {order}) AS value", "FROM ("]),
            *indented(inner, 2),
            *indented([") AS l"]),
            f") AS f{number}",
        ]
        return f"f{number}.value"

    # The plain aggregates: one pass over the rows of the widest window.

    def _aggregate(self, alias: str, call: str, feature: AggregatedFeature, cast: str = "") -> str:
        self._aggregates.append(_Aggregate(alias, call, cast, feature))
        return f"w.{alias}"

    def _plain_aggregates(self) -> list[str]:
        if not self._aggregates:
            return []
        widest = longest(each.feature.span for each in self._aggregates)
        items = []
        for each in self._aggregates:
            # Aggregates leave out null by themselves, but for the time of a row.
            present = each.feature.function == "time_since"
            narrowed = self._rows.narrowed(each.feature, present=present)
            if each.feature.span != widest:
                narrowed = [*self._rows.within(each.feature.span), *narrowed]
            lines = [each.call]
            if narrowed:
                lines = [f"{each.call} FILTER (", *indented(conditions("WHERE", narrowed)), ")"]
            lines[-1] += f"{each.cast} AS {each.alias}"
            items.append(lines)
        body = [
            "SELECT",
            *indented(listed(items)),
            f"FROM {self._rows.relation} AS e",
            *conditions("WHERE", self._rows.known(widest)),
        ]
        return ["CROSS JOIN LATERAL (", *indented(body), ") AS w"]


def _element(feature: AggregatedFeature) -> str:
    """A row's value as it is kept, not yet in the feature's type."""
    value = value_of(feature)
    return f"({value}){_DOUBLE}" if feature.type_name in FLOATS else value
