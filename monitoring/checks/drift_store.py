"""Storage of baselines, floors and check runs in PostgreSQL; all SQL of these tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from extensions.database.advisory_locks import session_lock
from extensions.errors import NothingToCheckError, SkewlessError
from extensions.suggestions import did_you_mean
from monitoring.baseline import Baseline
from monitoring.checks.serving_log_window import Window
from monitoring.verdicts import ERROR, Finding, Floor

NOTHING_WATCHED = (
    "Nothing is watched: no service has a baseline. Run `skewless drift baseline SERVICE "
    "--training-set …manifest.json` with the set its model was trained on."
)


@dataclass(frozen=True)
class Run:
    """One check; ``findings`` by statistic, the gravest first. ``again``: it was done before."""

    service: str
    window_start: datetime
    window_end: datetime
    baseline_id: str
    verdict: str
    requests: int
    findings: tuple[Finding, ...]
    error: str | None = None
    again: bool = False
    expectations: Sequence[Mapping[str, Any]] | None = None

    def of_view(self, view: str) -> list[Finding]:
        """What was found of one view and its features."""
        return [f for f in self.findings if f.feature == view or f.feature.startswith(view + ":")]


def bind(conn: psycopg.Connection, baseline: Baseline) -> str:
    """Store a baseline and bind its service to it; returns its identity."""
    with conn.transaction():
        conn.execute(
            "INSERT INTO drift_baselines (baseline_id, service, versions, training_set, content) "
            "VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [
                baseline.identity,
                baseline.service,
                Jsonb(dict(baseline.versions)),
                baseline.training_set,
                Jsonb(json.loads(baseline.to_json())),
            ],
        )
        conn.execute(
            "INSERT INTO drift_bindings (service, baseline_id) VALUES (%s, %s)",
            [baseline.service, baseline.identity],
        )
    return baseline.identity


def bound_services(conn: psycopg.Connection) -> list[str]:
    """The services that have a baseline."""
    rows = conn.execute("SELECT DISTINCT service FROM drift_bindings ORDER BY service").fetchall()
    return [service for (service,) in rows]


def trained_on(conn: psycopg.Connection, view: str) -> list[str]:
    """The models whose training set has the view, by the baselines that services are bound to.

    One text each: service, the view's version, and on a line of its own the training set's hash.
    """
    rows = conn.execute(
        "SELECT service, versions -> %(view)s, training_set FROM ("
        "SELECT DISTINCT ON (d.service) d.service, b.versions, b.training_set "
        "FROM drift_bindings AS d INNER JOIN drift_baselines AS b USING (baseline_id) "
        "ORDER BY d.service, d.bound_at DESC) AS bound WHERE versions ? %(view)s ORDER BY service",
        {"view": view},
    ).fetchall()
    return [
        f"{service} was trained on v{version}, training set\n{training_set}"
        for service, version, training_set in rows
    ]


def unwatched_services(conn: psycopg.Connection) -> list[str]:
    """The services in the served log that have no baseline."""
    # By hops over the index: the log may hold many millions of rows of each.
    rows = conn.execute(
        "WITH RECURSIVE hop AS (SELECT min(service) AS service FROM served_features "
        "UNION ALL SELECT (SELECT min(s.service) FROM served_features AS s "
        "WHERE s.service > hop.service) FROM hop WHERE hop.service IS NOT NULL) "
        "SELECT service FROM hop WHERE service IS NOT NULL "
        "AND service NOT IN (SELECT service FROM drift_bindings)"
    ).fetchall()
    return [service for (service,) in rows]


def bound_baseline(conn: psycopg.Connection, service: str) -> tuple[str, Baseline]:
    """The baseline that a service is compared with.

    Raises:
        NothingToCheckError: it has none.
    """
    row = conn.execute(
        "SELECT b.baseline_id, b.content FROM drift_bindings AS d "
        "INNER JOIN drift_baselines AS b USING (baseline_id) WHERE d.service = %s "
        "ORDER BY d.bound_at DESC LIMIT 1",
        [service],
    ).fetchone()
    if row is None:
        raise NothingToCheckError(
            f"The service {service} has no baseline: run `skewless drift baseline {service} "
            "--training-set …manifest.json` with the set its model was trained on."
            f"{did_you_mean(service, bound_services(conn))}",
        )
    return row[0], Baseline.from_json(row[1])


def floors_of(conn: psycopg.Connection, service: str) -> dict[tuple[str, str], Floor]:
    """The calibrated floors of a service, by (feature, statistic)."""
    rows = conn.execute(
        "SELECT feature, statistic, warning, critical FROM drift_floors WHERE service = %s",
        [service],
    ).fetchall()
    return {
        (feature, statistic): Floor(warning, critical)
        for feature, statistic, warning, critical in rows
    }


def set_floors(
    conn: psycopg.Connection, service: str, floors: Mapping[tuple[str, str], Floor]
) -> None:
    """Store calibrated floors; those of other statistics are unchanged."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO drift_floors (service, feature, statistic, warning, critical) "
            "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (service, feature, statistic) DO UPDATE SET "
            "warning = excluded.warning, critical = excluded.critical, "
            "set_at = clock_timestamp()",
            [(service, *key, floor.warning, floor.critical) for key, floor in floors.items()],
        )


def recorded(conn: psycopg.Connection, window: Window, baseline_id: str) -> Run | None:
    """The run of this window and baseline, unless there is none or it was an error."""
    runs = _runs(
        conn,
        "WHERE service = %s AND window_start = %s AND window_end = %s AND baseline_id = %s "
        "AND verdict <> %s",
        [window.service, window.start, window.end, baseline_id, ERROR],
    )
    return runs[0] if runs else None


def record(conn: psycopg.Connection, run: Run) -> None:
    """Store a run; an earlier run that ended in an error is replaced."""
    conn.execute(
        "INSERT INTO drift_runs AS r (service, window_start, window_end, baseline_id, verdict, "
        "requests, findings, expectations, error) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (service, window_start, window_end, baseline_id) DO UPDATE SET "
        "verdict = excluded.verdict, requests = excluded.requests, findings = excluded.findings, "
        "expectations = excluded.expectations, error = excluded.error, "
        "finished_at = clock_timestamp() WHERE r.verdict = %s",
        [
            run.service,
            run.window_start,
            run.window_end,
            run.baseline_id,
            run.verdict,
            run.requests,
            Jsonb([finding.to_json() for finding in run.findings]),
            None if run.expectations is None else Jsonb(list(run.expectations)),
            run.error,
            ERROR,
        ],
    )


def recent_runs(
    conn: psycopg.Connection, service: str, most: int, *, details: bool = False
) -> list[Run]:
    """The last runs of a service, oldest first."""
    result = _runs(
        conn,
        "WHERE service = %s ORDER BY window_end DESC, finished_at DESC LIMIT %s",
        [service, most],
        details=details,
    )
    return result[::-1]


def last_window_end(conn: psycopg.Connection, service: str, length: timedelta) -> datetime | None:
    """The end of the last checked window of this length."""
    row = conn.execute(
        "SELECT max(window_end) FROM drift_runs WHERE service = %s "
        "AND window_end - window_start = %s AND verdict <> %s",
        [service, length, ERROR],
    ).fetchone()
    return row[0] if row else None


def usual_requests(conn: psycopg.Connection, window: Window, least: int = 3) -> float | None:
    """The median number of requests at this time of day, of the last two weeks."""
    row = conn.execute(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY requests), count(*) FROM drift_runs "
        "WHERE service = %(service)s AND window_end - window_start = %(length)s "
        "AND window_start < %(start)s AND window_start >= %(start)s - interval '14 days' "
        "AND extract(epoch FROM %(start)s - window_start)::bigint %% 86400 = 0 "
        "AND verdict <> %(error)s",
        {
            "service": window.service,
            "length": window.length,
            "start": window.start,
            "error": ERROR,
        },
    ).fetchone()
    return float(row[0]) if row and row[1] >= least else None


class CheckedElsewhereError(SkewlessError):
    """Another process holds the service's checks."""


@contextmanager
def alone(conn: psycopg.Connection, service: str) -> Iterator[None]:
    """Hold the service's drift checks for this session.

    Raises:
        CheckedElsewhereError: another check is running.
    """

    def refusal() -> CheckedElsewhereError:
        return CheckedElsewhereError(
            f"Another drift check of {service} is running: wait for it, or end it."
        )

    with session_lock(conn, f"skewless drift {service}", refusal):
        yield


def _runs(
    conn: psycopg.Connection, condition: str, values: Sequence[Any], *, details: bool = False
) -> list[Run]:
    rows = conn.execute(
        "SELECT service, window_start, window_end, baseline_id, verdict, requests, findings, "
        + ("expectations" if details else "NULL")
        + ", error FROM drift_runs "
        + condition,
        values,
    ).fetchall()
    return [
        Run(
            service=row[0],
            window_start=row[1],
            window_end=row[2],
            baseline_id=row[3],
            verdict=row[4],
            requests=row[5],
            findings=tuple(Finding.from_json(one) for one in row[6]),
            expectations=row[7],
            error=row[8],
            again=True,
        )
        for row in rows
    ]
