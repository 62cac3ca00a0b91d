"""Lossless conversion of frames that are pushed online, in place of Feast's.

Feast 0.67 converts a pushed frame by way of numpy, where integers beside a null become doubles,
and truncates 5.7 to 5. It has no extension point there, so this module replaces two methods of
`PassthroughProvider` (`ingest_df`, `ingest_df_async`); stores other than ours keep Feast's.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.infra.passthrough_provider import PassthroughProvider
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import FeastType, Float64

from extensions.errors import DefinitionError, InputError
from extensions.feast_internals import build_entity_keys, coerce_datetime, run_field_mapping
from extensions.feature_types import FEATURE_TYPES, is_text, unwrapped
from extensions.stores.online_codec.row_encoder import one_chunk, proto_values
from extensions.stores.values.exact_cast import cast_exactly
from extensions.stores.values.json_documents import documents_as_text
from extensions.stores.values.key_value_casts import cast_key
from extensions.timestamp_column_parsing import parse_column


def exact_rows(view: FeatureView, frame: pd.DataFrame) -> list[Any]:
    """Convert a pushed frame to Feast's rows: entity key, values, event time, created time.

    Raises:
        SkewlessError: a column is missing, or a value is not of its declared type.
    """
    source = view.batch_source
    if source is None:
        raise DefinitionError(f"View {view.name} has no batch source that names its times.")
    try:
        table = pa.Table.from_pandas(documents_as_text(view, frame), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"The push to view {view.name} has a column of mixed types ({error}): one type each."
        ) from error
    table = run_field_mapping(table, source.field_mapping or {})
    keys = {field.name: field.dtype for field in view.entity_columns}
    fields = [*view.features, *view.entity_columns]
    wanted = [*(field.name for field in fields), source.timestamp_field]
    missing = sorted({*wanted} - {*table.column_names})
    if missing:
        raise InputError(f"The push to view {view.name} lacks {', '.join(missing)}.")
    values = {
        field.name: proto_values(
            one_chunk(
                cast_key(table[field.name], field.dtype, field.name, f"the push to {view.name}")
            )
            if field.name in keys
            else _declared(
                table[field.name], field.dtype, f"The column {field.name} of {view.name}"
            ),
            field.name,
            field.dtype.to_value_type(),
        )
        for field in fields
    }
    kinds = {name: dtype.to_value_type() for name, dtype in keys.items()}
    entities = build_entity_keys(table.num_rows, kinds, values)
    names = [field.name for field in view.features]
    features = [
        dict(zip(names, row, strict=True)) for row in zip(*(values[n] for n in names), strict=True)
    ]
    events = _times(table, source.timestamp_field)
    created = source.created_timestamp_column
    published = _times(table, created) if created else [None] * table.num_rows
    return list(zip(entities, features, events, published, strict=True))


def _declared(column: pa.ChunkedArray, dtype: FeastType, what: str) -> pa.Array:
    name, depth = unwrapped(dtype)
    if name in FEATURE_TYPES and not _parsed_by_feast(column.type, name):
        column = cast_exactly(column, name, depth, what, str(dtype))
    return one_chunk(column)


def _parsed_by_feast(held: pa.DataType, name: str) -> bool:
    """Whether Feast parses this text itself (times and documents from JSON)."""
    return is_text(held) and name not in ("INT32", "INT64")


def _times(table: pa.Table, name: str) -> list[Any]:
    column = table.column(name)
    if is_text(column.type):
        column = parse_column(column.to_pandas(), name)
    numbers = column.to_numpy()
    # NaN is a missing time; of a number beyond 64 bits, a cast would make any time.
    if numbers.dtype.kind == "f" and (np.abs(numbers) >= 2.0**63).any():
        raise InputError(f"The column {name} of the push holds a number that is no time.")
    times = pd.to_datetime(numbers)
    return [coerce_datetime(at) for at in times]


def _ours(provider: Any, view: Any) -> bool:
    # By its mark, since the store imports this module.
    return isinstance(view, FeatureView) and hasattr(provider.online_store, "write_arrow")


def _widened(view: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Widen a transform's float32 columns that are declared Float64, which Feast refuses."""
    if not isinstance(view, OnDemandFeatureView):
        return frame
    narrow = {
        field.name: "float64"
        for field in view.features
        if field.dtype == Float64 and str(frame.dtypes.get(field.name)) == "float32"
    }
    return frame.astype(narrow) if narrow else frame


def _exact(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def ingest_df(
        self: Any, feature_view: Any, df: pd.DataFrame, field_mapping: Any = None
    ) -> None:
        if not _ours(self, feature_view):
            original(self, feature_view, _widened(feature_view, df), field_mapping)
            return
        rows = exact_rows(feature_view, df)
        self.online_write_batch(self.repo_config, feature_view, rows, progress=None)

    return ingest_df


def _exact_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def ingest_df_async(
        self: Any, feature_view: Any, df: pd.DataFrame, field_mapping: Any = None
    ) -> None:
        if not _ours(self, feature_view):
            await original(self, feature_view, _widened(feature_view, df), field_mapping)
            return
        rows = exact_rows(feature_view, df)
        await self.online_write_batch_async(self.repo_config, feature_view, rows, progress=None)

    return ingest_df_async


def use_exact_conversion() -> None:
    """Replace the provider's methods, once per process."""
    if not hasattr(PassthroughProvider.ingest_df, "__wrapped__"):
        PassthroughProvider.ingest_df = _exact(PassthroughProvider.ingest_df)  # type: ignore[method-assign]
        PassthroughProvider.ingest_df_async = _exact_async(  # type: ignore[method-assign]
            PassthroughProvider.ingest_df_async
        )
