"""Ownership of key prefixes and section tags in Redis, checked before anything is written.

``<prefix>:!project`` names the project that owns the prefix: another project with the same name or
``key_prefix`` is refused. ``<prefix>:!views`` maps each entity's section tags (or, with several
join keys, names in keys) to view versions: a second version with the same tag is refused, so that
a row can never be taken for another view's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from feast import RepoConfig
from redis.exceptions import ResponseError

from extensions.errors import ConflictError, SkewlessError
from extensions.stores.online.redis_io import is_foreign
from extensions.stores.online_codec.redis_keys import KeyLayout, control_key, key_prefix_of
from extensions.stores.online_codec.row_format import Layout

PROJECT, VIEWS = "project", "views"

Claim = tuple[bytes, bytes]


def claim_of(view: str, layout: Layout, where: KeyLayout) -> Claim:
    """The field and value in ``!views`` that claim a view version's tag."""
    entity = ",".join(where.join_keys).encode()
    name = layout.view.encode() if where.composite else layout.tag
    return entity + b":" + name, f"{view}={layout.view}".encode()


def claim(client: Any, config: RepoConfig, views: Sequence[Claim] = ()) -> None:
    """Claim the prefix and the tags of view versions, or check that this project has them.

    Raises:
        SkewlessError: the prefix is another project's, or a name another view version's.
    """
    with client.pipeline(transaction=False) as pipe:
        _ask(pipe, config, views)
        replies = pipe.execute(raise_on_error=False)
    _answered(config, views, replies)


async def claim_async(client: Any, config: RepoConfig, views: Sequence[Claim] = ()) -> None:
    """As `claim`."""
    pipe = client.pipeline(transaction=False)
    _ask(pipe, config, views)
    _answered(config, views, await pipe.execute(raise_on_error=False))


def check_prefix_owner(client: Any, config: RepoConfig) -> None:
    """Check that no other project owns the prefix, without claiming it.

    Raises:
        SkewlessError: it is another project's.
    """
    try:
        held = client.get(control_key(config, PROJECT))
    except ResponseError as error:
        raise _foreign(config, error) if is_foreign(error) else error from None
    check_owner(config, held)


async def check_prefix_owner_async(client: Any, config: RepoConfig) -> None:
    """As `check_prefix_owner`."""
    try:
        held = await client.get(control_key(config, PROJECT))
    except ResponseError as error:
        raise _foreign(config, error) if is_foreign(error) else error from None
    check_owner(config, held)


def release(client: Any, config: RepoConfig, views: Iterable[Claim]) -> None:
    """Delete the claims of view versions whose rows were deleted."""
    for field, value in views:
        if client.hget(control_key(config, VIEWS), field) == value:
            client.hdel(control_key(config, VIEWS), field)


def claimed_by_others(client: Any, config: RepoConfig, views: Iterable[Claim]) -> set[bytes]:
    """Which of these claims' fields other view versions have claimed."""
    wanted = dict(views)
    try:
        held: dict[bytes, bytes] = client.hgetall(control_key(config, VIEWS))
    except ResponseError:  # somebody put another type in its place
        return set()
    return {field for field, value in held.items() if wanted.get(field, value) != value}


def check_distinct(claims: Iterable[Claim]) -> None:
    """Check that no two of these view versions have the same tag.

    Raises:
        SkewlessError: two have.
    """
    held: dict[bytes, bytes] = {}
    for field, value in claims:
        if held.setdefault(field, value) != value:
            raise _collision(value, held[field])


def _ask(pipe: Any, config: RepoConfig, views: Sequence[Claim]) -> None:
    pipe.set(control_key(config, PROJECT), config.project, nx=True)
    pipe.get(control_key(config, PROJECT))
    for field, value in views:
        pipe.hsetnx(control_key(config, VIEWS), field, value)
        pipe.hget(control_key(config, VIEWS), field)


def _answered(config: RepoConfig, views: Sequence[Claim], replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise _foreign(config, reply) if is_foreign(reply) else reply
    check_owner(config, replies[1])
    for (_, value), held in zip(views, replies[3::2], strict=True):
        if held != value:
            raise _collision(value, held)


def check_owner(config: RepoConfig, owner: bytes | None) -> None:
    """Check the stored owner of the prefix; None: nobody owns it yet.

    Raises:
        ConflictError: it is another project.
    """
    if owner is not None and owner != config.project.encode():
        raise ConflictError(
            f"The keys that begin with {key_prefix_of(config)!r} are the project "
            f"{owner.decode(errors='replace')}'s in this Redis, so that {config.project} may "
            "neither write nor delete there: choose another key_prefix in feature_store.yaml."
        )


def _collision(mine: bytes, held: bytes) -> SkewlessError:
    one, other = (each.decode(errors="replace").rpartition("=")[2] for each in (mine, held))
    return ConflictError(
        f"The view versions {one} and {other} would have one name in Redis and take each other's "
        f"rows: give {one} another name or another version number."
    )


def _foreign(config: RepoConfig, error: Exception) -> SkewlessError:
    return ConflictError(
        f"{control_key(config, PROJECT)} or {control_key(config, VIEWS)} in Redis is not what "
        "this store put "
        f"there ({error}): delete that key, or choose another key_prefix in feature_store.yaml."
    )
