"""Read a PostgreSQL column as its declared Feast type without loss, or refuse it by name.

A value leaves PostgreSQL in a form that Arrow carries without loss, chosen here from the column's
type and the declared one, and becomes the declared type in Arrow. What has no exact form (5.7 as
Int64, a point as Float64, the time 'infinity') is refused; so is what Arrow or its driver would
change without a word: arrays of several dimensions are flattened by it, and times beyond the
years 1 to 9999 wrap around.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from feast.types import FeastType
from psycopg import sql

from extensions.errors import DefinitionError
from extensions.feature_types import (
    FEATURE_TYPES,
    FLOATS,
    INTEGERS,
    JSONS,
    TEXTS,
    TIMES,
    unwrapped,
)
from extensions.stores.offline.arrow.source_column_types import SourceType
from extensions.stores.values.exact_cast import cast_exactly, unflatten_arrays

# Types whose values the driver carries as they are; of all others it is given the text.
_NATIVE = TEXTS | INTEGERS | FLOATS | TIMES | JSONS | {"boolean", "bytea", "uuid", "numeric"}

# Declared types that a document in one column holds, where the column is no array.
_DOCUMENT_LISTS = frozenset({"MAP", "STRUCT"})


# How texts must be written that are declared as another type; None: as JSON.
_UUID_PATTERN = "^[{]?[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}[}]?$"
_WRITTEN: Mapping[str, str | None] = {
    "UUID": _UUID_PATTERN,
    "TIME_UUID": _UUID_PATTERN,
    "DECIMAL": r"^[+-]?(([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]{1,6})?|nan|inf(inity)?)$",
    "JSON": None,
    "MAP": None,
    "STRUCT": None,
}
# Begins a guard that shows a value, and not an array's dimensions.
_UNSOUND = "value:"

Check = Callable[[sql.Composable], sql.Composable]


@dataclass(frozen=True)
class ColumnReader:
    """Reads one column: `select_expression` and `guard` in SQL, then `convert` in Arrow.

    Attributes:
        column: Its name, for messages.
        type: Its PostgreSQL type.
        dtype: Its declared Feast type; None where none is declared.
        key: Whether it is a join key, of which padding does not count.
        strict: Cast times, too, to the declared type, as the online store needs them.
    """

    column: str
    type: SourceType
    dtype: FeastType | None
    key: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be exact.

        Raises:
            DefinitionError: no value of the column's type is one of the declared type.
        """
        kind = self._element
        if kind is None or kind == "STRING":
            fits = self.depth == 0 or self.type.element is not None
        elif self.depth and self.type.element is None:
            fits = kind in _DOCUMENT_LISTS and self.depth == 1 and self.type.name in JSONS
        else:
            held = self.type.element if self.depth else self.type
            fits = held is not None and _fits(held.name, kind)
        if not fits:
            raise DefinitionError(
                f"The column {self.column} is {self._type_name}, which is no {self.dtype} "
                "exactly: declare the type that it has, or cast it in the source."
            )

    @property
    def _element(self) -> str | None:
        """The declared type within arrays, by name."""
        return unwrapped(self.dtype)[0] or None

    @property
    def depth(self) -> int:
        """How many dimensions the declared type has."""
        return unwrapped(self.dtype)[1]

    @property
    def has_guard(self) -> bool:
        """Whether a second column (`guard`) must be selected, which shows unreadable values."""
        return (self.type.element is not None and not self._as_text) or self._sound is not None

    @property
    def _sound(self) -> "Check | None":
        """The check that a value, or an array's item, must pass; None: every value is valid."""
        if self._as_text:
            return None
        held = self.type.element or self.type
        return _sound(held, self._element)

    @property
    def _as_text(self) -> bool:
        """Whether an array is read as one text, as PostgreSQL writes it."""
        return self._element == "STRING" and self.depth == 0

    @property
    def _type_name(self) -> str:
        return self.type.name

    @property
    def bare(self) -> bool:
        """Whether the column is selected without any expression around it."""
        return not self.has_guard and self.select_expression(sql.SQL("x")).as_string(None) == "x"

    def select_expression(self, value: sql.Composable) -> sql.Composable:
        """The SQL expression to select instead of the column ``value``."""
        kind = self._element
        element = self.type.element
        if element is None or self._as_text:
            return _scalar(value, self.type, kind, key=self.key)
        item = sql.SQL("u.v")
        read = _scalar(item, element, kind, key=False)
        if read == item:
            return value
        return sql.SQL(
            "CASE WHEN {value} IS NOT NULL THEN ARRAY(SELECT {read} FROM unnest({value}) "
            "WITH ORDINALITY AS u (v, n) ORDER BY u.n) END"
        ).format(value=value, read=read)

    def guard(self, value: sql.Composable) -> sql.Composable:
        """SQL: null for a value that can be read, else what is wrong with it.

        For nested lists it is always the dimensions, from which they are rebuilt.
        """
        sound = self._sound
        if self.type.element is None:
            assert sound is not None  # else there is no guard
            return sql.SQL("CASE WHEN NOT coalesce({}, TRUE) THEN {}::text END").format(
                sound(value), value
            )
        dimensions = sql.SQL("array_dims({})").format(value)
        if self.depth > 1:
            guard: sql.Composable = dimensions
        else:
            guard = sql.SQL("CASE WHEN array_ndims({}) > 1 THEN {} END").format(value, dimensions)
        if sound is None:
            return guard
        return sql.SQL(
            "coalesce((SELECT {unsound} || u.v FROM unnest({value}) AS u (v) "
            "WHERE NOT coalesce({sound}, TRUE) LIMIT 1), {guard})"
        ).format(
            unsound=sql.Literal(_UNSOUND), value=value, sound=sound(sql.SQL("u.v")), guard=guard
        )

    def convert(self, values: pa.ChunkedArray, guard: pa.ChunkedArray | None) -> pa.ChunkedArray:
        """Convert the selected values to the declared type.

        Raises:
            SkewlessError: a value is none of the declared type.
        """
        if guard is not None and guard.null_count < len(guard):
            self._refuse(guard.drop_null())
        if self.depth > 1:
            assert guard is not None  # an array is guarded
            values = unflatten_arrays(values, guard, self.depth, self.column)
        kind = self._element
        if kind is None or self.dtype is None:
            return values
        return cast_exactly(
            values, kind, self.depth, f"The column {self.column}", str(self.dtype), self.strict
        )

    def _refuse(self, unreadable: pa.ChunkedArray) -> None:
        if self.type.element is None:
            unsound = unreadable
        else:
            unsound = unreadable.filter(pc.starts_with(unreadable, _UNSOUND))
        if len(unsound):
            text = str(unsound[0].as_py()).removeprefix(_UNSOUND)
            held = self.type.element or self.type
            what = "time of the years 1 to 9999" if held.name in TIMES else str(self.dtype)
            raise DefinitionError(
                f"The column {self.column} holds {text!r}, which is no {what}: correct it, or "
                "declare another type."
            )
        if self.depth <= 1:
            declared = "nothing" if self.dtype is None else str(self.dtype)
            raise DefinitionError(
                f"The column {self.column} holds an array of several dimensions "
                f"({unreadable[0].as_py()}), and is declared as {declared}: declare an Array of "
                "Array, one for each dimension."
            )


def column_readers(
    types: Mapping[str, SourceType],
    declared: Mapping[str, FeastType],
    keys: Sequence[str] = (),
    *,
    strict: bool = False,
) -> tuple[ColumnReader, ...]:
    """The readers of a source's columns.

    Raises:
        SkewlessError: a column cannot be read as declared.
    """
    return tuple(
        ColumnReader(name, kind, declared.get(name), key=name in keys, strict=strict)
        for name, kind in types.items()
    )


def text_form(value: sql.Composable, kind: SourceType) -> sql.Composable:
    """A value's text as PostgreSQL writes it; ``true`` and ``false`` for booleans."""
    if kind.name in ("inet", "cidr") or (kind.name == "bpchar" and kind.domain):
        # Their casts to text say more, or less, than they print: 10.0.0.1/32, and no padding.
        return sql.SQL("CASE WHEN {value} IS NOT NULL THEN format('%s', {value}) END").format(
            value=value
        )
    if kind.name in TEXTS and not kind.domain and kind.name != "name":
        return value
    return sql.SQL("{}::text").format(value)


def _scalar(
    value: sql.Composable, kind: SourceType, declared: str | None, *, key: bool
) -> sql.Composable:
    if declared == "STRING" and not (key and kind.name == "bpchar"):
        return text_form(value, kind)
    if kind.name not in _NATIVE | {"oid"}:
        return text_form(value, kind)
    if (cast := _cast_to(kind, declared, key=key)) is not None:
        return sql.SQL("{}::{}").format(value, sql.SQL(cast))
    if kind.name == "numeric" and declared in ("INT32", "INT64"):
        return sql.SQL("trim_scale({})::text").format(value)
    return value


def _cast_to(kind: SourceType, declared: str | None, *, key: bool) -> str | None:
    """The type to cast to in PostgreSQL; None: the driver carries the column as it is."""
    as_text = (
        kind.name == "uuid"
        or (declared == "DECIMAL" and kind.name in INTEGERS | {"numeric"})
        or (key and kind.name == "bpchar")  # without the padding, as it is compared
    )
    if as_text:
        return "text"
    if kind.name == "oid":
        return "bigint"
    return kind.name if kind.domain else None


def _sound(kind: SourceType, declared: str | None) -> Check | None:
    """The condition that a value must meet; null of null. None: every value is right."""
    if kind.name in TIMES:
        return lambda value: sql.SQL(
            "{value} >= {first}::{kind} AND {value} < {end}::{kind}"
        ).format(
            value=value,
            kind=sql.SQL(kind.name),
            first=sql.Literal("0001-01-01 00:00:00+00"),
            end=sql.Literal("9999-12-31 00:00:00+00"),
        )
    if kind.name not in TEXTS or declared is None or declared not in _WRITTEN:
        return None
    pattern = _WRITTEN[declared]
    if pattern is None:
        return lambda value: sql.SQL("pg_input_is_valid({}::text, 'json')").format(value)
    return lambda value: sql.SQL("{}::text ~* {}").format(value, sql.Literal(pattern))


def _fits(held: str, kind: str) -> bool:
    """Whether values of a PostgreSQL type can be made a Feast type without loss."""
    admitted = FEATURE_TYPES["MAP" if kind == "STRUCT" else kind].exact_from
    return admitted is None or held in admitted
