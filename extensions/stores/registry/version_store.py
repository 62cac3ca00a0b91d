"""The published versions: what each is, its state, and where each view's pointer stood when.

Functions take any psycopg connection in a transaction of the caller's, so that a version's state,
the pointer and Feast's own rows (`feast_rows`) change together or not at all.

Nothing here waits for Feast to be imported, which takes seconds: a rollback has none to lose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from extensions.database.advisory_locks import transaction_lock
from extensions.database.connection import table_exists
from extensions.errors import ConflictError, InputError
from extensions.suggestions import did_you_mean
from extensions.version_names import log_table, version_name

if TYPE_CHECKING:
    from extensions.asof.definition_fingerprint import Definition

Kind = Literal["computation", "transform"]
State = Literal["staged", "live", "active", "retired"]
Move = Literal["first", "promote", "rollback"]

# Those whose values are computed.
KEPT: tuple[State, ...] = ("staged", "live", "active")


@dataclass(frozen=True)
class Published:
    """One published version. ``feast_proto``: Feast's view, as it was published."""

    view_name: str
    version: int
    kind: Kind
    state: State
    fingerprint: str
    content: dict[str, Any]
    feast_proto: bytes
    budget: timedelta | None
    published_at: datetime
    state_since: datetime
    fill_from: datetime | None
    filled_at: datetime | None
    drop_log_at: datetime | None
    online_removed_at: datetime | None
    log_dropped_at: datetime | None

    @property
    def definition(self) -> "Definition":
        """What was published."""
        from extensions.asof.definition_fingerprint import Definition  # noqa: PLC0415 - imports Feast

        return Definition(self.view_name, self.version, self.kind, self.content)

    @property
    def name(self) -> str:
        """``view.vN``."""
        return version_name(self.view_name, self.version)

    @property
    def kept(self) -> bool:
        """Whether it is computed and can be served."""
        return self.state in KEPT

    @property
    def features(self) -> frozenset[str]:
        """The names of the features."""
        return frozenset(self.content["types"])

    @property
    def log_table(self) -> str:
        """The table of its values."""
        return log_table(self.view_name, self.version)


@dataclass(frozen=True)
class Promotion:
    """One move of a view's pointer."""

    view_name: str
    kind: Move
    from_version: int | None
    to_version: int
    moved_at: datetime
    moved_by: str
    reason: str | None
    forced: bool


@dataclass(frozen=True)
class Era:
    """A version and the times, ``[since, until)``, at which it was the default."""

    version: int
    since: datetime | None
    until: datetime | None


def has_versions(conn: psycopg.Connection) -> bool:
    """Whether the migration is there; the registry may also lie in another database."""
    return table_exists(conn, "view_versions")


def published(conn: psycopg.Connection, view: str | None = None) -> list[Published]:
    """All published versions, or those of one view, by view and number."""
    with conn.cursor(row_factory=class_row(Published)) as cursor:
        return cursor.execute(
            "SELECT view_name, version, kind, state, fingerprint, definition AS content, "
            "feast_proto, budget, published_at, state_since, fill_from, filled_at, drop_log_at, "
            "online_removed_at, log_dropped_at FROM view_versions "
            "WHERE %(view)s::text IS NULL OR view_name = %(view)s ORDER BY view_name, version",
            {"view": view},
        ).fetchall()


def find(conn: psycopg.Connection, view: str, version: int) -> Published:
    """One version.

    Raises:
        InputError: it was never published.
    """
    known = versions_of(conn, view)
    for one in known:
        if one.version == version:
            return one
    numbers = [f"v{one.version}" for one in known if one.state != "retired"]
    raise InputError(
        f"{view} v{version} was never published: there "
        f"{'are ' + ', '.join(numbers) if numbers else 'is none that is not retired'}."
    )


def versions_of(conn: psycopg.Connection, view: str) -> list[Published]:
    """The versions of one view.

    Raises:
        InputError: it was never published.
    """
    if known := published(conn, view):
        return known
    views = sorted({one.view_name for one in published(conn)})
    raise InputError(
        f"There is no published view {view}: `skewless versions` lists those there are."
        f"{did_you_mean(view, views)}"
    )


def active(known: Sequence[Published]) -> Published | None:
    """The default among the versions of one view."""
    return next((each for each in known if each.state == "active"), None)


def promotions(conn: psycopg.Connection, view: str | None = None) -> list[Promotion]:
    """The moves of one view's pointer, or of all, oldest first."""
    with conn.cursor(row_factory=class_row(Promotion)) as cursor:
        return cursor.execute(
            "SELECT view_name, kind, from_version, to_version, moved_at, moved_by, reason, forced "
            "FROM promotions WHERE %(view)s::text IS NULL OR view_name = %(view)s ORDER BY id",
            {"view": view},
        ).fetchall()


def eras(moves: Sequence[Promotion]) -> tuple[Era, ...]:
    """When each version of one view was the default; the first counts for all time before it."""
    result: list[Era] = []
    for i, move in enumerate(moves):
        if move.kind == "first":
            result.clear()
        later = moves[i + 1].moved_at if i + 1 < len(moves) else None
        result.append(Era(move.to_version, move.moved_at if result else None, later))
    return tuple(result)


def hold_pointer(conn: psycopg.Connection, view: str, *, wait: bool) -> None:
    """Keep the view's pointer and rows to this transaction.

    Raises:
        ConflictError: another operator has them, and ``wait`` is False.
    """
    if not transaction_lock(conn, f"skewless pointer {view}", wait=wait):
        raise ConflictError(
            f"Another operator is changing {view} at this moment: look at `skewless versions`, "
            "then try again."
        )


def record(
    conn: psycopg.Connection, definition: "Definition", state: State, feast_proto: bytes
) -> None:
    """Publish a definition; its number is taken from now on.

    A first version, and a transform, are complete as they are: nothing was served before that
    they would have to match.
    """
    complete = state == "active" or definition.kind == "transform"
    conn.execute(
        "INSERT INTO view_versions "
        "(view_name, version, kind, state, fingerprint, definition, feast_proto, budget, "
        "filled_at) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, CASE WHEN %s THEN clock_timestamp() END)",
        [
            definition.view,
            definition.version,
            definition.kind,
            state,
            definition.fingerprint,
            Jsonb(dict(definition.content)),
            feast_proto,
            definition.budget,
            complete,
        ],
    )


def set_state(conn: psycopg.Connection, view: str, version: int, state: State) -> None:
    """Move a version to another state."""
    conn.execute(
        "UPDATE view_versions SET state = %s, state_since = clock_timestamp() "
        "WHERE view_name = %s AND version = %s",
        [state, view, version],
    )


def note_move(
    conn: psycopg.Connection,
    view: str,
    kind: Move,
    versions: tuple[int | None, int],
    by: str,
    reason: str | None,
    *,
    forced: bool = False,
) -> datetime:
    """Record that the pointer went ``(from, to)``; returns the time that counts."""
    row = conn.execute(
        "INSERT INTO promotions "
        "(view_name, kind, from_version, to_version, moved_at, moved_by, reason, forced) "
        "VALUES (%(view)s, %(kind)s, %(from)s, %(to)s, greatest(clock_timestamp(), "
        "(SELECT max(moved_at) + interval '1 microsecond' FROM promotions "
        "WHERE view_name = %(view)s)), %(by)s, %(reason)s, %(forced)s) RETURNING moved_at",
        {
            "view": view,
            "kind": kind,
            "from": versions[0],
            "to": versions[1],
            "by": by,
            "reason": reason,
            "forced": forced,
        },
    ).fetchone()
    assert row is not None  # an insert of one row returns it
    at: datetime = row[0]
    return at
