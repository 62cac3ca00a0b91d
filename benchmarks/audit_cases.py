"""One difference of each class, put into a span in which there is none: is it named so?"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import psycopg
from feast import FeatureStore
from feast.data_source import PushMode

from extensions.asof import Computation
from monitoring.audit.skew_audit import AuditReport

Audit = Callable[[Mapping[str, Computation]], AuditReport]

COUNT, SCORE = "user_watch_stats:user_watch_count_7d", "item_stats:item_popularity_score"
CLASSES = ("lag", "late", "version", "bug")
# Values that no history gives.
NEVER_COUNTED, NEVER_SCORED = 987_654, 0.987654


@dataclass(frozen=True)
class Case:
    """What was put in: a difference of class ``kind`` in ``injected`` values of ``feature``."""

    what: str
    kind: str
    feature: str
    injected: int
    report: AuditReport

    @property
    def named(self) -> int:
        """Values of that feature that the audit put into that class."""
        return sum(getattr(f, self.kind) for f in self.report.features if f.feature == self.feature)

    @property
    def right(self) -> bool:
        """Those, and nothing else in any class."""
        return self.named == self.injected == sum(differences(self.report).values()) > 0


def differences(report: AuditReport) -> dict[str, int]:
    """Values by class, over all features."""
    return {name: sum(getattr(f, name) for f in report.features) for name in CLASSES}


def cases(
    conn: psycopg.Connection,
    store: FeatureStore,
    computations: Mapping[str, Computation],
    start: datetime,
    audited: Audit,
) -> Iterator[Case]:
    """One after the other, each undone again; ``audited`` looks at what was served from ``start``.

    Nothing but the server may run meanwhile.
    """
    row = conn.execute(
        "SELECT request_id, row_number, item_stats__item_popularity_score FROM served_features "
        "WHERE served_at >= %s AND item_stats__item_popularity_score > 0 "
        "ORDER BY request_id, row_number LIMIT 1",
        [start],
    ).fetchone()
    assert row is not None
    request, number, score = row
    _serve_instead(conn, request, number, float(np.nextafter(np.float32(score), np.float32(2))))
    report = audited(computations)
    _serve_instead(conn, request, number, score)
    yield Case("the last bit of one served value", "bug", SCORE, 1, report)

    name = "item_stats.v1"
    other = replace(
        computations[name],
        sql=f"SELECT item_id, as_of, {NEVER_SCORED}::real AS item_popularity_score FROM spine",
    )
    injected = _number(conn, "AND item_stats__as_of IS NOT NULL", start)
    report = audited({**computations, name: other})
    yield Case("a computation that gives another value", "bug", SCORE, injected, report)

    user, injected = _a_known_user(conn, start)
    before = start - timedelta(milliseconds=1)
    conn.execute(
        "INSERT INTO user_watch_stats_v1 VALUES (%s, %s, %s, %s)",
        [user, before, before, NEVER_COUNTED],
    )
    report = audited(computations)
    _forget(conn)
    yield Case("a value that was logged and not online yet", "lag", COUNT, injected, report)

    rows = {
        "user_id": [user], "user_watch_count_7d": [NEVER_COUNTED],
        "event_timestamp": [before], "created_timestamp": [before],
    }  # fmt: skip
    store.push("user_watch_stats_push", pd.DataFrame(rows), to=PushMode.OFFLINE)
    report = audited(computations)
    _forget(conn)
    yield Case("a value pushed afterwards and dated back", "late", COUNT, injected, report)

    # Moves are kept for ever: this one comes last.
    conn.execute(
        "INSERT INTO promotions (view_name, kind, from_version, to_version, moved_at, moved_by) "
        "VALUES ('item_stats', 'promote', 1, 2, %s, 'benchmark')",
        [start],
    )
    injected = _number(
        conn,
        "AND item_stats__version = 1 AND item_stats__item_popularity_score <> coalesce(("
        "SELECT l.item_popularity_score FROM item_stats_v2 AS l WHERE l.item_id = f.item_id "
        "AND l.event_timestamp <= f.served_at AND l.created_timestamp <= f.served_at "
        "ORDER BY l.event_timestamp DESC, l.created_timestamp DESC LIMIT 1), 0)",
        start,
    )
    report = audited(computations)
    yield Case("a move that the server had not followed", "version", SCORE, injected, report)


def _serve_instead(conn: psycopg.Connection, request: int, number: int, score: float) -> None:
    conn.execute(
        "UPDATE served_features SET item_stats__item_popularity_score = %s "
        "WHERE request_id = %s AND row_number = %s",
        [score, request, number],
    )


def _a_known_user(conn: psycopg.Connection, start: datetime) -> tuple[int, int]:
    """Who was asked for most, of those with a value; and in how many requests."""
    row = conn.execute(
        "SELECT user_id, count(*) FROM served_features WHERE served_at >= %s AND row_number = 0 "
        "AND user_watch_stats__as_of IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1",
        [start],
    ).fetchone()
    assert row is not None
    return row


def _forget(conn: psycopg.Connection) -> None:
    """As if the row had never been there."""
    conn.execute("DELETE FROM user_watch_stats_v1 WHERE user_watch_count_7d = %s", [NEVER_COUNTED])
    conn.execute("DELETE FROM late_appends WHERE log_table = 'user_watch_stats_v1'")


def _number(conn: psycopg.Connection, condition: str, start: datetime) -> int:
    """Rows of rankings that were served since ``start``."""
    row = conn.execute(
        "SELECT count(*) FROM served_features AS f WHERE service = 'ranking' "
        f"AND served_at >= %s {condition}",
        [start],
    ).fetchone()
    return int(row[0]) if row else 0
