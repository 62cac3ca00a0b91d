"""Earlier schemas of a view: kept with it in the registry, so that old rows can still be read.

A view that no computation fills (`feast materialize`, pushes) may get a feature more or less, or
another type. Its rows in Redis are in the old layout until somebody writes them again; a reader
that knows the old schema takes from them what is still there with the same type.
"""

import json
from typing import Any

from feast import ValueType

# The view's tag: a JSON list of schemas, each a list of [feature, type].
EARLIER_SCHEMAS = "skewless.earlier_schemas"

Schema = tuple[tuple[str, ValueType], ...]


def schema_of(view: Any) -> Schema:
    """A Feast view's features and their types, by name."""
    return tuple(sorted((field.name, field.dtype.to_value_type()) for field in view.features))


def earlier_schemas_of(view: Any) -> str:
    """A view's earlier schemas as JSON, from its tag; "" where there are none."""
    return str((getattr(view, "tags", None) or {}).get(EARLIER_SCHEMAS, ""))


def parse_schemas(earlier: str) -> list[Schema]:
    """The schemas that `earlier_schemas_of` returns."""
    return [
        tuple((name, ValueType[kind]) for name, kind in one) for one in json.loads(earlier or "[]")
    ]


def keep_earlier(before: Any, after: Any) -> bool:
    """Add the schemas of ``before``, the registered view, to the tag of ``after``.

    Returns:
        Whether the schema changed.
    """
    known: list[Any] = json.loads(earlier_schemas_of(before) or "[]")
    schema = schema_of(before)
    changed = schema != schema_of(after)
    if changed:
        one = [[name, kind.name] for name, kind in schema]
        known = [*(other for other in known if other != one), one]
    if known:
        after.tags = {**after.tags, EARLIER_SCHEMAS: json.dumps(known)}
    return changed
