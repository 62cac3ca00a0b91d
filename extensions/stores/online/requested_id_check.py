"""Check a request's ids as the client gave them, before Feast's conversion.

Feast 0.67 converts 5.7, true and "5" to the ids 5, 1 and 5 before a store sees them. The original
ids are kept in a context variable until the request's views, and so the key types, are known.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.types.Value_pb2 import RepeatedValue

from extensions.feast_internals import cached_request_context
from extensions.stores.values.key_value_casts import check_keys

_original_ids: ContextVar[Mapping[str, Sequence[Any]]] = ContextVar("asked")


@contextmanager
def requested(
    features: Any,
    rows: Any,
    registry: BaseRegistry,
    project: str,
    full_feature_names: bool = False,
    *_args: Any,
    **_more: Any,
) -> Iterator[None]:
    """Context manager: keep the original ids of an `OnlineStore.get_online_features` call.

    Raises:
        SkewlessError: Feast's conversion failed of an id that is not of its entity's type.
    """
    if isinstance(rows, list):
        names = dict.fromkeys(name for row in rows for name in row)
        rows = {name: [row.get(name) for row in rows] for name in names}
    token = _original_ids.set(rows)
    try:
        yield
    except (TypeError, ValueError, AssertionError, OverflowError):
        # Feast says neither the key nor its type.
        request = cached_request_context(registry, project, features, full_feature_names)
        _, _, join_keys_of, _, _, grouped, *_ = request
        check_requested([view for view, _ in grouped], join_keys_of)
        raise
    finally:
        _original_ids.reset(token)


def check_requested(views: Iterable[FeatureView], join_keys_of: Mapping[str, str]) -> None:
    """Refuse ids that are not of their entity's type; Feast's messages (protobuf) are typed.

    ``join_keys_of``: the join key that the name of an entity stands for.

    Raises:
        SkewlessError: there is such an id.
    """
    original = _original_ids.get({})
    values = {name: ids for name, ids in original.items() if not isinstance(ids, RepeatedValue)}
    for view in views:
        renamed = view.projection.join_key_map
        kinds = {
            renamed.get(column.name, column.name): column.dtype
            for column in view.entity_columns
            if column.name != DUMMY_ENTITY_ID
        }
        for name, join_key in join_keys_of.items():
            if name in values and name not in kinds and join_key in kinds:
                kinds[name] = kinds[join_key]
        check_keys(values, kinds)
