"""Incidents: from the first bad window to the first good one; one message when it begins and ends.

Messages are written with the verdict, in one transaction, and sent after it (an outbox): a process
that dies in between leaves them to the next one. A message whose sender died before it could note
the delivery is sent again with the same key, by which a receiver tells the two apart.

A channel that fails changes no verdict: its message waits in the table and is tried again with
the next check, and how long it has been failing is a metric of its own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.types.json import Jsonb

from extensions.failpoints import point
from monitoring.alerts.notifiers import Channel, ChannelError, Message
from monitoring.checks.drift_store import Run
from monitoring.failpoints import Fault
from monitoring.verdicts import CRITICAL, OK, WARNING, Finding

OPENED, CLOSED = "opened", "closed"
# Between checks a channel that failed is left alone for so long.
RETRY_AFTER = timedelta(minutes=5)
# Findings that a message names; the report shows all.
NAMED = 8


@dataclass(frozen=True)
class Delivery:
    """One attempt at one message; ``error`` None where it arrived."""

    channel: str
    incident: int
    message: str
    error: str | None


def follow(conn: psycopg.Connection, run: Run, channels: Sequence[Channel]) -> int | None:
    """Open, replace or close the service's incident; returns the open one, if any.

    Only the latest window of a service counts: a check of the past opens nothing. Too few rows
    and errors say nothing either way.
    """
    if not _is_latest(conn, run):
        return None
    opened = conn.execute(
        "SELECT incident_id, severity FROM drift_incidents "
        "WHERE service = %s AND closed_at IS NULL",
        [run.service],
    ).fetchone()
    with conn.transaction():
        if run.verdict == OK and opened is not None:
            _close(conn, opened[0], run)
            _announce(conn, opened[0], CLOSED, channels)
            return None
        if run.verdict not in (WARNING, CRITICAL):
            return None if opened is None else int(opened[0])
        if opened is not None and (opened[1] == CRITICAL or run.verdict == WARNING):
            return int(opened[0])
        if opened is not None:  # a warning became critical: the new incident says so
            _close(conn, opened[0], run)
        row = conn.execute(
            "INSERT INTO drift_incidents (service, severity, opened_window, summary, findings) "
            "VALUES (%s, %s, %s, %s, %s) RETURNING incident_id",
            [
                run.service,
                run.verdict,
                run.window_start,
                summary(run),
                Jsonb([one.to_json() for one in bad(run)]),
            ],
        ).fetchone()
        assert row is not None  # RETURNING
        _announce(conn, row[0], OPENED, channels)
        return int(row[0])


def open_of(conn: psycopg.Connection, service: str) -> int | None:
    """The service's open incident."""
    row = conn.execute(
        "SELECT incident_id FROM drift_incidents WHERE service = %s AND closed_at IS NULL",
        [service],
    ).fetchone()
    return None if row is None else int(row[0])


def waiting_services(conn: psycopg.Connection, pause: timedelta = RETRY_AFTER) -> set[str]:
    """The services with messages that were not tried within ``pause``."""
    rows = conn.execute(
        "SELECT DISTINCT i.service FROM drift_notifications AS n "
        "INNER JOIN drift_incidents AS i USING (incident_id) WHERE n.delivered_at IS NULL "
        "AND (n.tried_at IS NULL OR n.tried_at < clock_timestamp() - %s)",
        [pause],
    ).fetchall()
    return {service for (service,) in rows}


def deliver(conn: psycopg.Connection, service: str, channels: Sequence[Channel]) -> list[Delivery]:
    """Send what waits, oldest first; each message once per channel.

    At least once where the process dies between sending and noting it: the message's ``key`` is
    the same both times.
    """
    by_name = {channel.name: channel for channel in channels}
    waiting = conn.execute(
        "SELECT n.incident_id, n.message, n.channel, i.service, i.severity, i.summary, "
        "i.findings, coalesce(i.closed_window, i.opened_window), i.opened_at "
        "FROM drift_notifications AS n INNER JOIN drift_incidents AS i USING (incident_id) "
        "WHERE i.service = %s AND n.delivered_at IS NULL "
        "ORDER BY n.incident_id, n.message DESC",
        [service],
    ).fetchall()
    done = []
    failed: set[str] = set()
    for incident, kind, name, of, severity, text, findings, window, opened in waiting:
        # Behind a message that failed the next would fail too, and arrive out of order.
        if name not in by_name or name in failed:
            continue
        error = None
        message = Message(
            incident, kind, of, severity, _title(kind, of, severity),
            (text, *(_line(Finding.from_json(finding)) for finding in findings[:NAMED]))
            if kind == OPENED
            else ("All features are within their limits again.",),
            window.isoformat(), _key(of, incident, opened, kind),
        )  # fmt: skip
        try:
            point(Fault.ALERT_BEGUN)
            by_name[name].send(message)
            point(Fault.ALERT_SENT)
        except ChannelError as refused:
            error = str(refused)
            failed.add(name)
        except Exception as broken:  # noqa: BLE001 - a channel must not end a check
            error = type(broken).__name__
            failed.add(name)
        conn.execute(
            "UPDATE drift_notifications SET attempts = attempts + 1, error = %s, "
            "tried_at = clock_timestamp(), delivered_at = CASE WHEN %s THEN clock_timestamp() END "
            "WHERE incident_id = %s AND message = %s AND channel = %s",
            [error, error is None, incident, kind, name],
        )
        point(Fault.ALERT_NOTED)
        done.append(Delivery(name, incident, kind, error))
    return done


def bad(run: Run) -> list[Finding]:
    """The findings that make a run's verdict."""
    return [finding for finding in run.findings if finding.verdict in (WARNING, CRITICAL)]


def summary(run: Run) -> str:
    """One sentence that names what left the training data's range."""
    features = list(dict.fromkeys(one.feature for one in bad(run)))
    named = ", ".join(features[:3]) + (f" and {len(features) - 3} more" if features[3:] else "")
    return (
        f"Between {run.window_start:%Y-%m-%d %H:%M} and {run.window_end:%H:%M} UTC "
        f"{named} left the training data's range ({run.requests:,} logged requests)."
    )


def _key(service: str, incident: int, opened: datetime, kind: str) -> str:
    """Idempotency key: the same for every attempt at a message, unique across databases."""
    text = f"{service} {incident} {opened.isoformat()} {kind}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _title(kind: str, service: str, severity: str) -> str:
    if kind == CLOSED:
        return f"Drift of {service} has ended"
    return f"{severity.capitalize()} drift of {service}"


def _line(finding: Finding) -> str:
    return (
        f"- {finding.feature}: {finding.statistic} {finding.effect:.3g} "
        f"({finding.verdict}; warning at {finding.warning:g}, critical at {finding.critical:g})"
    )


def _is_latest(conn: psycopg.Connection, run: Run) -> bool:
    row = conn.execute(
        "SELECT max(window_end) FROM drift_runs WHERE service = %s", [run.service]
    ).fetchone()
    return bool(row and row[0] is not None and row[0] <= run.window_end)


def _close(conn: psycopg.Connection, incident: int, run: Run) -> None:
    conn.execute(
        "UPDATE drift_incidents SET closed_at = clock_timestamp(), closed_window = %s "
        "WHERE incident_id = %s",
        [run.window_start, incident],
    )


def _announce(
    conn: psycopg.Connection, incident: int, kind: str, channels: Sequence[Channel]
) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO drift_notifications (incident_id, message, channel) VALUES (%s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            [(incident, kind, channel.name) for channel in channels],
        )
