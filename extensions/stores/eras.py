"""Eras: which version of a view was served at a label's moment, for who names no version.

A reference without a version means what was served: before a promotion the old version's values,
after it the new one's, and after a rollback the old one's again. ``view@vN`` means vN at all
moments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from extensions.database.connection import table_exists
from extensions.stores.published import Era, eras, promotions, published


@dataclass(frozen=True)
class ServedEra:
    """A version and the moments at which it was the default, as PostgreSQL's tstzmultirange.

    ``table`` None: its log is gone, and what was served then is not known any more.
    ``defaults``: of the features that it had.
    """

    version: int
    table: str | None
    moments: str
    defaults: Mapping[str, Any]


def served_eras(conn: psycopg.Connection, view: str) -> tuple[ServedEra, ...]:
    """The eras of a view, one for each version; empty where there has only been one version."""
    found: dict[int, list[Era]] = {}
    for era in eras(promotions(conn, view)):
        found.setdefault(era.version, []).append(era)
    if len(found) < 2:
        return ()
    known = {one.version: one for one in published(conn, view)}
    served = []
    for version, times in sorted(found.items()):
        one = known.get(version)
        if one is None or one.kind == "transform":
            return ()
        there = one.log_dropped_at is None and table_exists(conn, one.log_table)
        served.append(
            ServedEra(
                version,
                one.log_table if there else None,
                multirange(times),
                {feature["name"]: feature["default"] for feature in one.content["features"]},
            )
        )
    return tuple(served)


def multirange(times: Sequence[Era]) -> str:
    """``{(,2026-01-01 00:00:00+00:00),[…,)}``."""

    def bound(at: datetime | None) -> str:
        return "" if at is None else f'"{at.isoformat(sep=" ")}"'

    parts = (
        f"{'(' if era.since is None else '['}{bound(era.since)},{bound(era.until)})"
        for era in times
    )
    return "{" + ",".join(parts) + "}"
