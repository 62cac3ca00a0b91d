"""Feast's types as Arrow's."""

import pyarrow as pa
from feast.types import Bytes, FeastType, from_feast_to_pyarrow_type


def arrow_type(dtype: FeastType) -> pa.DataType:
    """The Arrow type that holds ``dtype``; Feast's own table leaves out bytes."""
    return pa.binary() if dtype == Bytes else from_feast_to_pyarrow_type(dtype)


def is_text(data_type: pa.DataType) -> bool:
    """Whether values are text, of either offset width."""
    return bool(pa.types.is_string(data_type) or pa.types.is_large_string(data_type))
