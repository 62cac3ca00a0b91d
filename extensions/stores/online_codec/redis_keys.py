"""Names in Redis: which key, and for a composite key which field, holds an entity's row.

Every key begins with an exact prefix ``<project>:<join keys>:``, so that no project and no
entity can meet another's keys; for the project's name a shorter one can be given (`stem`). Names
are percent-encoded; ids stand as they are, with a letter before those that are not numbers, so
that 5 and "5" stay two entities.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from feast import RepoConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from extensions.errors import InputError
from extensions.feature_types import value_field
from extensions.stores.values.canonical_keys import SEVERAL_SPELLINGS, canonical

_TEXTS = frozenset({"string_val", "json_val"})
_SPELLED = {value_field(kind): kind for kind in SEVERAL_SPELLINGS}


def id_bytes(value: Value) -> bytes:
    """An id as it stands in a key: ``5``, ``=text``, ``~bytes``, ``%`` and Feast's message.

    Raises:
        InputError: the id is null.
    """
    kind = value.WhichOneof("val")
    if kind in ("int64_val", "int32_val"):
        return b"%d" % getattr(value, kind)
    if kind in _SPELLED:  # one key in every spelling
        return b"=" + canonical(getattr(value, kind), _SPELLED[kind]).encode()
    if kind in _TEXTS:
        return b"=" + str(getattr(value, kind)).encode()
    if kind == "bytes_val":
        return b"~" + bytes(value.bytes_val)
    if kind is None:
        raise InputError("An entity's id is null: give every row its id.")
    return b"%" + bytes(value.SerializeToString(deterministic=True))


# The one row of a view without entities.
_EVERYBODY = id_bytes(Value(string_val=DUMMY_ENTITY_VAL))


@dataclass(frozen=True)
class Place:
    """Where the rows of one view version are kept.

    With one join key, all views of the entity share one string per entity. With more, each view
    version has a hash per leading key, and a field for the rest of the key.
    """

    join_keys: tuple[str, ...]
    prefix: bytes

    @property
    def composite(self) -> bool:
        """Whether rows are fields of hashes."""
        return len(self.join_keys) > 1

    def address(self, entity: EntityKey) -> tuple[bytes, bytes | None]:
        """Key, and field where composite."""
        if not entity.entity_values:  # Feast names no key in pushes to a view without entities
            return self.of_ids([_EVERYBODY])
        if not self.composite:
            return self.prefix + id_bytes(entity.entity_values[0]), None
        ids = dict(zip(entity.join_keys, map(id_bytes, entity.entity_values), strict=True))
        return self.of_ids([ids[name] for name in self.join_keys])

    def of_ids(self, ids: Sequence[bytes]) -> tuple[bytes, bytes | None]:
        """As `address`, of ids in the order of the join keys."""
        if not self.composite:
            return self.prefix + ids[0], None
        return self.prefix + ids[0], field_of(ids[1:])


def field_of(ids: Sequence[bytes]) -> bytes:
    """The rest of a composite key: the id itself, or several with their lengths before them."""
    if len(ids) == 1:
        return ids[0]
    return b"".join(b"%d:%b" % (len(one), one) for one in ids)


def ids_of_field(name: bytes, count: int) -> list[bytes]:
    """The ids that `field_of` made a field of; none where it is not such a field."""
    if count == 1:
        return [name]
    ids, at = [], 0
    while at < len(name):
        colon = name.find(b":", at)
        digits = name[at:colon] if colon >= 0 else b""
        if not digits.isdigit() or colon + 1 + int(digits) > len(name):
            return []
        ids.append(name[colon + 1 : colon + 1 + int(digits)])
        at = colon + 1 + int(digits)
    return ids if len(ids) == count else []


def stem(config: RepoConfig) -> str:
    """What all keys of a project begin with: its name, or ``key_prefix`` of its online store."""
    return quote(getattr(config.online_store, "key_prefix", None) or config.project, safe="")


def aside(config: RepoConfig, what: str) -> str:
    """A key of the project that is no entity's."""
    return f"{stem(config)}:!{what}"


def entity_prefix(config: RepoConfig, join_keys: Sequence[str]) -> bytes:
    """What keys of an entity begin with, up to the ids or, where composite, the view's name."""
    return f"{stem(config)}:{','.join(quote(key, safe='') for key in join_keys)}:".encode()


@lru_cache(maxsize=1024)
def place(start: str, join_keys: tuple[str, ...], view: str) -> Place:
    """The place of a view version; ``join_keys`` with the leading one first."""
    names = [start, ",".join(quote(key, safe="") for key in join_keys)]
    if len(join_keys) > 1:
        names.append(quote(view, safe=""))
    return Place(join_keys, (":".join(names) + ":").encode())


def place_of(
    config: RepoConfig, table: Any, view: str, entities: Iterable[EntityKey] = ()
) -> Place:
    """The place of a Feast view's rows, whose join keys the entities name if the view does not."""
    join_keys = tuple(getattr(table, "join_keys", None) or ())
    if not join_keys:
        first = next(iter(entities), None)
        join_keys = tuple(first.join_keys) if first is not None else ()
    return place(stem(config), join_keys or (DUMMY_ENTITY_ID,), view)
