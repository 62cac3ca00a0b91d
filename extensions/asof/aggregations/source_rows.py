"""The rows that a compiled text aggregates: of an entity, known by then, filtered, in order.

Relations and columns have short names in the text: ``s`` is the spine, ``e`` a row of the source.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property

from extensions.asof.aggregations.declaration import AggregatedFeature
from extensions.asof.aggregations.functions import FLOATS, WHOLE
from extensions.asof.aggregations.sql_fragments import (
    INDENT,
    conditions,
    indented,
    interval,
    listed,
    name,
)
from extensions.asof.computation import HistorySource


class SourceRows:
    """SQL fragments about the rows of the source of one view."""

    def __init__(
        self,
        source: HistorySource,
        keys: Sequence[str],
        id_column: str | None,
        condition: str | None,
        features: Sequence[AggregatedFeature],
    ) -> None:
        self._source, self._keys, self._id = source, keys, id_column
        self._filter, self._features = condition, features
        self._time = f"e.{name(source.time)}"

    @property
    def relation(self) -> str:
        """What this text reads: the source, or the filtered rows of it."""
        if not (self._filters or self._filter):
            return name(self._source.table)
        return "source_rows" if self._source.table == "counted" else "counted"

    def common_table(self) -> list[str]:
        """The filtered rows, out of sight of ``spine``: a condition sees nothing but its row."""
        if not (self._filters or self._filter):
            return []
        items = [[f"t.{name(column)}"] for column in self._columns]
        items += [
            ["(", *indented(text.strip().splitlines()), f") AS {alias}"]
            for text, alias in self._filters.items()
        ]
        body = ["SELECT", *indented(listed(items)), f"FROM {name(self._source.table)} AS t"]
        if self._filter:
            body += ["WHERE", INDENT + "("]
            body += [*indented(self._filter.strip().splitlines(), 2), INDENT + ")"]
        return [f"WITH {self.relation} AS NOT MATERIALIZED (", *indented(body), ")", ""]

    def known(self, window: timedelta | None) -> list[str]:
        """Conditions: a row of the entity, in the window, that had happened and arrived."""
        times = dict.fromkeys((self._source.time, self._source.arrival))
        return [
            *(f"e.{name(key)} = s.{name(key)}" for key in self._keys),
            *self.within(window),
            *(f"e.{name(column)} <= s.as_of" for column in times),
        ]

    def within(self, window: timedelta | None) -> list[str]:
        """Conditions: a row that is not older than the window."""
        return [] if window is None else [f"{self._time} > s.as_of - {interval(window)}"]

    def narrowed(self, feature: AggregatedFeature, *, present: bool) -> list[str]:
        """Conditions of a feature beside its window: a value, if ``present``, and its filter."""
        return [
            *([f"e.{name(feature.column)} IS NOT NULL"] if present and feature.column else []),
            *([f"e.{self._filters[feature.filter]}"] if feature.filter else []),
        ]

    def order(self, direction: str = "") -> str:
        """The order of the rows ``e``."""
        return ", ".join(f"{each}{direction}" for each in (self._time, *self._ties))

    def order_of(self, relation: str, direction: str = "") -> str:
        """The order of the rows that `select` made, in a relation of that name."""
        columns = ["happened", *(f"tie_{i}" for i in range(1, len(self._ties) + 1))]
        return ", ".join(f"{relation}.{column}{direction}" for column in columns)

    def select(
        self, feature: AggregatedFeature, value: str, *more: str, ties: bool = True
    ) -> list[str]:
        """SELECT the ``value`` of each row that counts for a feature, with what orders it."""
        items = [f"{value} AS value", *more]
        if ties:
            items += [f"{self._time} AS happened"]
            items += [f"{tie} AS tie_{i}" for i, tie in enumerate(self._ties, start=1)]
        where = [*self.known(feature.span), *self.narrowed(feature, present=True)]
        return [
            "SELECT",
            *indented(listed([[item] for item in items])),
            f"FROM {self.relation} AS e",
            *conditions("WHERE", where),
        ]

    @cached_property
    def _columns(self) -> list[str]:
        """The columns of the source that the text uses."""
        used = [*self._keys, self._source.time, self._source.arrival]
        used += [self._id] if self._id else []
        used += [each.column for each in self._features if each.column]
        return list(dict.fromkeys(used))

    @cached_property
    def _filters(self) -> dict[str, str]:
        """The column of the filtered rows that says whether a row meets a filter, by its text."""
        found: dict[str, str] = {}
        for text in dict.fromkeys(each.filter for each in self._features if each.filter):
            alias = f"filter_{len(found) + 1}"
            while alias in self._columns:
                alias += "_"
            found[text] = alias
        return found

    @cached_property
    def _ties(self) -> list[str]:
        """What decides between rows of one event time; nothing where no value depends on it."""
        ordered = [each for each in self._features if each.kind.ordered]
        if not ordered:
            return []
        if self._id:
            return [f'e.{name(self._id)}::text COLLATE "C"']
        return sorted(
            {
                value_of(each) if each.type_name == "STRING" else f"e.{name(each.column)}"
                for each in ordered
                if each.column
            }
        )


def value_of(feature: AggregatedFeature) -> str:
    """A row's value, in the type in which it is aggregated: ``+ 0`` makes a real a double."""
    column = f"e.{name(feature.column)}"
    if feature.type_name in WHOLE:
        return f"{column}::bigint"
    if feature.type_name in FLOATS:
        return f"{column} + 0"
    return f'{column}::text COLLATE "C"' if feature.type_name == "STRING" else column
