"""What view versions go on without, read from ``refused_entities``, for people.

`extensions.asof.refused_entities` writes that table; this imports no Feast, which takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

REFUSED_ADVICE = (
    "Their values stay as they are until the rows behind them or the computation are mended; they "
    "are tried again every minute."
)
# Characters of a key that are shown.
_SHOWN = 40


@dataclass(frozen=True)
class RefusedOfView:
    """What one view version goes on without: how many entities, since when, and one of them."""

    view: str
    version: int
    refused: int
    since: datetime
    example: str
    why: str

    def sentence(self) -> str:
        """What it means and what to do."""
        several = self.refused > 1
        return (
            f"{self.view} v{self.version} goes on without {self.refused} "
            f"{'entities' if several else 'entity'}, {'such as ' if several else ''}"
            f"{self.example}: {self.why}. {REFUSED_ADVICE}"
        )


def refused_of_views(conn: psycopg.Connection) -> list[RefusedOfView]:
    """By view version, what it goes on without; the example is who was refused last."""
    return [
        RefusedOfView(view, version, number, since, entity_text(entity), why)
        for view, version, number, since, entity, why in conn.execute(
            "SELECT DISTINCT ON (view_name, version) view_name, version, count(*) OVER same, "
            "min(as_of) OVER same, entity, why FROM refused_entities "
            "WINDOW same AS (PARTITION BY view_name, version) "
            "ORDER BY view_name, version, refused_at DESC"
        ).fetchall()
    ]


def entity_text(entity: Sequence[str]) -> str:
    """An entity's keys for people, long ones cut."""
    return ", ".join(key if len(key) <= _SHOWN else key[:_SHOWN] + "…" for key in entity)
