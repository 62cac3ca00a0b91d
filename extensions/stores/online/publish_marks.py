"""Marks in Redis: how far each view version was published, and which run of Redis it was.

One hash, ``<prefix>:!epochs``; a field for each view version with ``<epoch>:<number>``. What they
mean together with PostgreSQL's is `extensions.stores.restore_detection`'s business.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from feast import RepoConfig
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from extensions.errors import ConflictError
from extensions.stores.online.redis_io import is_foreign, run
from extensions.stores.online_codec import write_scripts
from extensions.stores.online_codec.redis_keys import aside

MARKS = "epochs"
_MARK = re.compile(rb"([0-9a-f]{32}):(\d{1,18})")


@dataclass(frozen=True)
class Mark:
    """The number of the last publication of a view version, in an epoch."""

    epoch: str
    number: int


def read_mark(client: Any, config: RepoConfig, view: str) -> Mark | None:
    """The mark of a view version; None where Redis has none (or something else in its place)."""
    try:
        held = client.hget(aside(config, MARKS), view)
    except ResponseError as error:
        if not is_foreign(error):
            raise
        return None
    found = _MARK.fullmatch(held or b"")
    return Mark(found[1].decode(), int(found[2])) if found else None


def advance_mark(
    client: Any, config: RepoConfig, view: str, mark: Mark, *, first: bool = False
) -> None:
    """Move a view version's mark on, within its epoch.

    Raises:
        ConflictError: Redis has another history's mark, or has lost it.
    """
    if not _set(client, config, view, mark, "first" if first else ""):
        raise ConflictError(
            f"Redis was restored or emptied while {view} was published: the next refresh, or "
            f"`skewless rebuild-online --view {view}`, mends it."
        )


def begin_epoch(client: Any, config: RepoConfig, view: str, mark: Mark) -> None:
    """Put a new epoch's mark in the place of whatever is there."""
    _set(client, config, view, mark, "new")


def forget_marks(client: Any, config: RepoConfig, views: Iterable[str]) -> None:
    """Take out the marks of view versions whose rows are gone."""
    try:
        client.hdel(aside(config, MARKS), *views)
    except ResponseError as error:
        if not is_foreign(error):
            raise


def run_of(client: Any) -> str:
    """Which run of Redis this is: its primaries' run ids; '' where it does not say."""
    try:
        if isinstance(client, RedisCluster):
            nodes: Any = client.info("server", target_nodes=RedisCluster.PRIMARIES)
            # Of a single primary, the client returns its answer alone.
            every = [nodes] if "run_id" in nodes else nodes.values()
            return ",".join(sorted(str(one.get("run_id", "")) for one in every))
        return str(client.info("server").get("run_id", ""))
    except ResponseError:  # a managed server may keep it to itself
        return ""


def _set(client: Any, config: RepoConfig, view: str, mark: Mark, how: str) -> bool:
    key = aside(config, MARKS).encode()
    return bool(
        run(client, write_scripts.ADVANCE_MARK, [key], [view, mark.epoch, mark.number, how])
    )
