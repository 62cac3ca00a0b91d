"""Eras: which version of a view was served at a label's time, for who names no version.

A reference without a version means what was served: before a promotion the old version's values,
after it the new one's, and after a rollback the old one's again. ``view@vN`` means vN at all
times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from extensions.database.connection import table_exists
from extensions.stores.registry.version_store import (
    Era,
    Kind,
    Published,
    eras,
    promotions,
    published,
)


@dataclass(frozen=True)
class ServedEra:
    """A version and the times at which it was the default, as PostgreSQL's tstzmultirange.

    ``table`` None: its log is gone, and what was served then is not known any more.
    ``defaults``: of the features that it had.
    """

    version: int
    table: str | None
    valid_times: str
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class TransformEra:
    """A transform's version and the times at which it was the default, as above.

    ``feast_proto``: Feast's view as it was published, its function included.
    """

    version: int
    valid_times: str
    feast_proto: bytes


def served_eras(conn: psycopg.Connection, view: str) -> tuple[ServedEra, ...]:
    """The eras of a view, one for each version; empty where there has only been one version."""
    served = []
    for version, times in _versions(conn, view, "computation"):
        there = version.log_dropped_at is None and table_exists(conn, version.log_table)
        served.append(
            ServedEra(
                version.version,
                version.log_table if there else None,
                multirange(times),
                {feature["name"]: feature["default"] for feature in version.content["features"]},
            )
        )
    return tuple(served)


def transform_eras(conn: psycopg.Connection, name: str) -> tuple[TransformEra, ...]:
    """The eras of a transform, of retired versions too; empty where there has only been one."""
    return tuple(
        TransformEra(version.version, multirange(times), version.feast_proto)
        for version, times in _versions(conn, name, "transform")
    )


def _versions(conn: psycopg.Connection, view: str, kind: Kind) -> list[tuple[Published, list[Era]]]:
    """The versions that were the default at some time, if there are two and all of this kind."""
    by_version: dict[int, list[Era]] = {}
    for era in eras(promotions(conn, view)):
        by_version.setdefault(era.version, []).append(era)
    known = {version.version: version for version in published(conn, view) if version.kind == kind}
    if len(by_version) < 2 or not by_version.keys() <= known.keys():
        return []
    return [(known[version], times) for version, times in sorted(by_version.items())]


def multirange(times: Sequence[Era]) -> str:
    """``{(,2026-01-01 00:00:00+00:00),[…,)}``."""

    def bound(at: datetime | None) -> str:
        return "" if at is None else f'"{at.isoformat(sep=" ")}"'

    parts = (
        f"{'(' if era.since is None else '['}{bound(era.since)},{bound(era.until)})"
        for era in times
    )
    return "{" + ",".join(parts) + "}"
