"""Arrow tables as pandas frames without losing digits.

Pandas makes doubles of whole numbers that stand beside a null, and doubles hold them up to 2^53
only. Where that would change a number, the column is pandas' nullable Int64, or of Python's lists.
"""

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from extensions.feature_types import is_list

# Whole numbers up to here are doubles exactly.
EXACT = 2**53


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table as a frame, with a fresh index."""
    wide = {
        field.name: _nullable(table.column(place))
        for place, field in enumerate(table.schema)
        if pa.types.is_integer(field.type) and _loses(table.column(place))
    }
    lists = [
        place
        for place, field in enumerate(table.schema)
        if is_list(field.type) and _stays_python(field.type, table.column(place))
    ]
    frame: pd.DataFrame = table.to_pandas().reset_index(drop=True)
    for name, column in wide.items():
        frame[name] = column
    for place in lists:
        name = table.schema.field(place).name
        values = pd.Series(table.column(place).to_pylist(), index=frame.index, dtype=object)
        frame[name] = values
    return frame


def _nullable(column: pa.ChunkedArray) -> Any:
    kinds = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}
    return column.to_pandas(types_mapper=kinds.get).reset_index(drop=True)


def _loses(values: pa.ChunkedArray | pa.Array) -> bool:
    """Whether doubles would not hold these whole numbers, and doubles they would be."""
    if values.type.bit_width < 64 or not values.null_count:
        return False
    bounds = pc.min_max(values)
    least, most = bounds["min"].as_py(), bounds["max"].as_py()
    return least is not None and (least < -EXACT or most > EXACT)


def _stays_python(kind: pa.DataType, column: pa.ChunkedArray) -> bool:
    inner = kind.value_type
    if is_list(inner):
        return True  # lists of lists: numpy would have arrays of arrays
    return bool(
        pa.types.is_integer(inner) and any(_loses(chunk.flatten()) for chunk in column.chunks)
    )
