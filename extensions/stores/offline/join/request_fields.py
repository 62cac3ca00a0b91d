"""Request fields among labels: are they of the types that the transforms declare?"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import pyarrow as pa
from feast.types import from_value_type
from feast.value_type import ValueType

from extensions.errors import InputError
from extensions.feature_types import arrow_type, is_text


class _Transform(Protocol):
    name: str

    def get_request_data_schema(self) -> Mapping[str, ValueType]: ...


def check_request_fields(transforms: Iterable[_Transform], rows: pa.Table) -> None:
    """Refuse labels whose column for a request field cannot become its type exactly.

    A transform would fail inside its own function, or compute with something else than what a
    request brings.

    Raises:
        InputError: it names the column, its type and the declared one.
    """
    for transform in transforms:
        for name, value_type in transform.get_request_data_schema().items():
            if name not in rows.column_names:
                continue
            column, declared = rows[name], from_value_type(value_type)
            if not _becomes(column, arrow_type(declared)):
                raise InputError(
                    f"The column {name} of the labels must hold {declared}, as the transform "
                    f"{transform.name} declares what a request brings; it holds {column.type}.",
                )


def _becomes(column: pa.ChunkedArray, wanted: pa.DataType) -> bool:
    held = column.type
    if pa.types.is_dictionary(held):
        column = column.cast(held.value_type)
        held = column.type
    if held == wanted or pa.types.is_null(held):
        return True
    if pa.types.is_timestamp(held) and pa.types.is_timestamp(wanted):
        return True
    if is_text(held) != is_text(wanted):
        # Bytes, lists and the like have rules of their own, in Feast.
        return not (is_text(held) or is_text(wanted))
    try:
        column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    except pa.ArrowNotImplementedError:
        return not (pa.types.is_primitive(held) and pa.types.is_primitive(wanted))
    return True
