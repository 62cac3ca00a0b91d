"""Documents in a pushed frame as JSON text, each for itself.

Arrow would make one type of a column's dictionaries, in which each has the keys of all, so that
``{"a": 1}`` beside ``{"b": 2}`` would be stored with a ``b`` that is null.
"""

import json
from typing import Any

import pandas as pd
from feast import FeatureView
from feast.types import Array, FeastType, Set

from extensions.errors import InputError
from extensions.feature_types import unwrapped

_DOCUMENTS = frozenset({"MAP", "JSON", "STRUCT"})


def documents_as_text(view: FeatureView, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with text in the place of what is declared Map, Struct or Json and is no text.

    Raises:
        SkewlessError: a value cannot be written as JSON.
    """
    source = view.batch_source
    in_source = {to: column for column, to in source.field_mapping.items()} if source else {}
    texts = {}
    for field in view.features:
        for column in {field.name, in_source.get(field.name, field.name)} & {*frame.columns}:
            values = frame[column].tolist()
            if _is_document(field.dtype) and any(isinstance(one, dict | list) for one in values):
                listed = isinstance(field.dtype, Array | Set)
                texts[column] = pd.Series(
                    [_written(one, column, view.name, listed=listed) for one in values],
                    index=frame.index,
                    dtype=object,
                )
    return frame.assign(**texts) if texts else frame


def _is_document(dtype: FeastType) -> bool:
    return unwrapped(dtype)[0] in _DOCUMENTS


def _written(value: Any, column: str, view: str, *, listed: bool) -> Any:
    """A document, or a list of them, each for itself."""
    if listed and isinstance(value, list):
        return [_text(one, column, view) for one in value]
    return _text(value, column, view)


def _text(value: Any, column: str, view: str) -> Any:
    if not isinstance(value, dict | list):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The column {column} of a push to view {view} holds what is no JSON ({error}): "
            "write times, numbers and bytes in it as texts."
        ) from error
