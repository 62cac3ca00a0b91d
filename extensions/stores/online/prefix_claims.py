"""Claims: whose the keys under a prefix are, and whose a section's tag is.

Two notes in Redis, kept by whoever writes, deletes or applies, before anything else is done.
``<prefix>:!project`` is the project whose prefix it is: another one named like it, or given it as
``key_prefix``, is refused. ``<prefix>:!views`` says for each entity which view version a section's
tag (or, where keys are composite, a name in the key) stands for: a second one with the same tag is
refused, so that a row's view is never a matter of chance.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from feast import RepoConfig
from redis.exceptions import ResponseError

from extensions.errors import ConflictError, SkewlessError
from extensions.stores.online.redis_io import is_foreign
from extensions.stores.online_codec.redis_keys import Place, aside, stem
from extensions.stores.online_codec.row_format import Layout

PROJECT, VIEWS = "project", "views"

Claim = tuple[bytes, bytes]


def claim_of(view: str, layout: Layout, where: Place) -> Claim:
    """The field and the value by which a version of ``view`` claims its rows' name."""
    entity = ",".join(where.join_keys).encode()
    name = layout.view.encode() if where.composite else layout.tag
    return entity + b":" + name, f"{view}={layout.view}".encode()


def claim(client: Any, config: RepoConfig, views: Sequence[Claim] = ()) -> None:
    """Claim the prefix and the names of view versions, or see that they are claimed already.

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


def owned(client: Any, config: RepoConfig) -> None:
    """See that the prefix is nobody else's, without claiming it.

    Raises:
        SkewlessError: it is another project's.
    """
    try:
        held = client.get(aside(config, PROJECT))
    except ResponseError as error:
        raise _foreign(config, error) if is_foreign(error) else error from None
    see_owner(config, held)


async def owned_async(client: Any, config: RepoConfig) -> None:
    """As `owned`."""
    try:
        held = await client.get(aside(config, PROJECT))
    except ResponseError as error:
        raise _foreign(config, error) if is_foreign(error) else error from None
    see_owner(config, held)


def release(client: Any, config: RepoConfig, views: Iterable[Claim]) -> None:
    """Give up claims of view versions whose rows are gone; others' stay."""
    for field, value in views:
        if client.hget(aside(config, VIEWS), field) == value:
            client.hdel(aside(config, VIEWS), field)


def others(client: Any, config: RepoConfig, views: Iterable[Claim]) -> set[bytes]:
    """The fields among those of ``views`` that other view versions have claimed."""
    wanted = dict(views)
    try:
        held: dict[bytes, bytes] = client.hgetall(aside(config, VIEWS))
    except ResponseError:  # somebody put another type in its place
        return set()
    return {field for field, value in held.items() if wanted.get(field, value) != value}


def distinct(claims: Iterable[Claim]) -> None:
    """See that no two of these view versions have one name in Redis.

    Raises:
        SkewlessError: two have.
    """
    held: dict[bytes, bytes] = {}
    for field, value in claims:
        if held.setdefault(field, value) != value:
            raise _collision(value, held[field])


def _ask(pipe: Any, config: RepoConfig, views: Sequence[Claim]) -> None:
    pipe.set(aside(config, PROJECT), config.project, nx=True)
    pipe.get(aside(config, PROJECT))
    for field, value in views:
        pipe.hsetnx(aside(config, VIEWS), field, value)
        pipe.hget(aside(config, VIEWS), field)


def _answered(config: RepoConfig, views: Sequence[Claim], replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise _foreign(config, reply) if is_foreign(reply) else reply
    see_owner(config, replies[1])
    for (_, value), held in zip(views, replies[3::2], strict=True):
        if held != value:
            raise _collision(value, held)


def see_owner(config: RepoConfig, owner: bytes | None) -> None:
    """See what the note of the prefix' owner says; None: there is none.

    Raises:
        ConflictError: it is another project.
    """
    if owner is not None and owner != config.project.encode():
        raise ConflictError(
            f"The keys that begin with {stem(config)!r} are the project "
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
        f"{aside(config, PROJECT)} or {aside(config, VIEWS)} in Redis is not what this store put "
        f"there ({error}): delete that key, or choose another key_prefix in feature_store.yaml."
    )
