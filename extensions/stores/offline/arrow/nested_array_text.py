"""Lists of lists as PostgreSQL writes arrays of several dimensions, which no driver sends.

``[[1, 2], [3, 4]]`` is ``{{1,2},{3,4}}``. PostgreSQL's arrays are rectangular: rows of different
lengths are refused.
"""

from typing import Any

import pyarrow as pa

from extensions.errors import InputError
from extensions.feature_types import is_list


def array_texts(view: str, table: pa.Table) -> pa.Table:
    """The table with such texts in the place of nested lists; other columns stay.

    Raises:
        InputError: a value is no array of PostgreSQL's.
    """
    for place, field in enumerate(table.schema):
        if not (is_list(field.type) and is_list(field.type.value_type)):
            continue
        try:
            texts = [
                None if value is None else _text(value) for value in table.column(place).to_pylist()
            ]
        except ValueError as error:
            raise InputError(
                f"The column {field.name} of a push to view {view} holds {error}: none of the "
                f"{table.num_rows} rows was appended."
            ) from error
        table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table


def _text(value: Any) -> str:
    shape = _shape(value)
    if 0 in shape and len(shape) > 1 and shape[0]:
        raise ValueError(f"an array of {shape[0]} empty lists, which PostgreSQL does not keep")
    return _written(value)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    shapes = {_shape(one) for one in value}
    if len(shapes) > 1:
        raise ValueError("lists of different lengths in one array, which must be of one")
    return (len(value), *(shapes.pop() if shapes else ()))


def _written(value: Any) -> str:
    if isinstance(value, list):
        return "{" + ",".join(map(_written, value)) + "}"
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        value = "\\x" + value.hex()
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
