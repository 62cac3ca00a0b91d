"""Ids of the simulated users and items: whole numbers, or texts where the entities' ids are."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_PREFIXES = {"user": "u-", "item": "m-"}
EntityName = Literal["user", "item"]


def id_array(entity: EntityName, numbers: npt.NDArray[np.int64]) -> pa.Array:
    """Ids of the entity's value type: ``81`` as int64, or ``u-81`` (``m-81``) as text."""
    if not _are_texts(entity):
        return pa.array(np.ascontiguousarray(numbers), pa.int64())
    return pa.array([f"{_PREFIXES[entity]}{number}" for number in numbers.tolist()], pa.string())


def plain_id(entity: EntityName, number: int) -> int | str:
    """The id as a message carries it."""
    return f"{_PREFIXES[entity]}{number}" if _are_texts(entity) else number


def with_id_types(schema: pa.Schema) -> pa.Schema:
    """A schema of whole-number ids with the entities' own types."""
    for entity in _PREFIXES:
        place = schema.get_field_index(f"{entity}_id")
        if place >= 0 and _are_texts(entity):
            schema = schema.set(place, schema.field(place).with_type(pa.string()))
    return schema


def _are_texts(entity: str) -> bool:
    # Feast takes seconds to import: nobody should wait for it who only asks for the parameters.
    from feast import ValueType  # noqa: PLC0415

    from feature_repo import entities  # noqa: PLC0415

    kind: ValueType = getattr(entities, entity).value_type
    return kind == ValueType.STRING
