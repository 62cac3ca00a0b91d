"""What is explained: a view version, found by its name, and an entity, by its keys' texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from feast import FeatureStore, FeatureView, ValueType
from feast.errors import FeatureViewNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID

from extensions.asof.computation import Computation
from extensions.errors import InputError
from extensions.feature_types import BITS, integer_range
from extensions.stores.registry.version_store import (
    Published,
    active,
    find,
    has_versions,
    published,
)
from extensions.stores.values.canonical_keys import NUL, UUIDS, canonical, integer_of, is_uuid
from extensions.suggestions import did_you_mean
from extensions.version_names import version_name
from extensions.versions.retirement import feast_view


@dataclass(frozen=True)
class Subject:
    """A view version and an entity of it.

    Attributes:
        view: The view's name.
        version: Its version; None of a view without a computation of its own.
        state: The version's state; None of a view without a computation.
        feast: Feast's view, as it was published.
        computation: How its values are computed; None where they are pushed or loaded.
        published: The version's row; None of a view without a computation.
        entity: The values of the join keys, by their names, in the order in which they are given.
    """

    view: str
    version: int | None
    state: str | None
    feast: FeatureView
    computation: Computation | None
    published: Published | None
    entity: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``view.vN``, or the view's name."""
        return self.view if self.version is None else version_name(self.view, self.version)

    @property
    def types(self) -> dict[str, ValueType]:
        """The types of the join keys."""
        return key_types(self.feast)

    @property
    def key(self) -> tuple[Any, ...]:
        """The values in the computation's order."""
        assert self.computation is not None
        return tuple(self.entity[name] for name in self.computation.join_keys)


def find_subject(
    store: FeatureStore, conn: psycopg.Connection, name: str, keys: Sequence[str]
) -> Subject:
    """The view version that a name means, and the entity that the texts name.

    Args:
        store: Whose registry is asked for views without a computation.
        conn: In autocommit.
        name: ``VIEW`` (its default version) or ``VIEW.vN``.
        keys: A text for each join key, in the view's order.

    Raises:
        InputError: there is no such view, it is a transform, or the texts are no keys of it.
    """
    view, dot, number = name.rpartition(".v")
    if not (dot and number.isdecimal()):
        view, number = name, ""
    known = published(conn, view) if has_versions(conn) else []
    if not known and not number:
        return _without_computation(store, conn, view, keys)
    one = find(conn, view, int(number)) if number else active(known)
    if one is None:
        raise InputError(f"No version of {view} is its default: say which, as {view}.v1.")
    if one.kind == "transform":
        raise InputError(
            f"{view} is a transform: it is computed for each request and has no log. Explain the "
            f"views that it reads: {', '.join(one.content['reads'])}."
        )
    feast, computation = feast_view(one), one.definition.computation()
    entity = read_keys(name, key_types(feast), keys)
    return Subject(view, one.version, one.state, feast, computation, one, entity)


def key_types(view: FeatureView) -> dict[str, ValueType]:
    """The types of a view's join keys, by name, in its order."""
    return {
        column.name: column.dtype.to_value_type()
        for column in view.entity_columns
        if column.name != DUMMY_ENTITY_ID
    }


def read_keys(view: str, types: Mapping[str, ValueType], texts: Sequence[str]) -> dict[str, Any]:
    """The values of the join keys, of texts in their order; no message repeats a text.

    Raises:
        InputError: there are more or fewer, or a text is no key of its type.
    """
    if len(texts) != len(types):
        wanted = f"{len(types)} keys ({', '.join(types)})" if len(types) > 1 else "".join(types)
        raise InputError(
            f"{view} is of {wanted or 'no entity'}: give a value for each, in that order, not "
            f"{len(texts)}."
        )
    return {
        name: _value(name, kind, text)
        for (name, kind), text in zip(types.items(), texts, strict=True)
    }


def _value(name: str, kind: ValueType, text: str) -> Any:
    if kind in BITS:
        least, most = integer_range(kind)
        number = integer_of(text)
        if number is None or not least <= number <= most:
            raise InputError(
                f"The key {name} must be a whole number of {BITS[kind] + 1} bits, written plainly: "
                "7, neither 007 nor 7.0."
            )
        return number
    if kind in UUIDS:
        spelt = canonical(text, kind)
        if not is_uuid(spelt):
            raise InputError(f"The key {name} must be a UUID.")
        return spelt
    if kind != ValueType.STRING:
        raise InputError(f"The key {name} is of the type {kind.name}, which cannot be given here.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"The key {name} must be a text in UTF-8.") from error
    if NUL in text:
        raise InputError(f"The key {name} holds the character NUL, which no log can hold.")
    return text


def _without_computation(
    store: FeatureStore, conn: psycopg.Connection, name: str, keys: Sequence[str]
) -> Subject:
    try:
        view = store.get_feature_view(name)
    except FeatureViewNotFoundException:
        known = {each.name for each in store.list_feature_views()}
        known |= {each.view_name for each in (published(conn) if has_versions(conn) else [])}
        raise InputError(
            f"There is no view {name} in the registry: `skewless versions` lists those there "
            f"are.{did_you_mean(name, known)}"
        ) from None
    return Subject(name, None, None, view, None, None, read_keys(name, key_types(view), keys))
