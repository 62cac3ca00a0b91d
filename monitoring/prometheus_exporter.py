"""Prometheus exporter of views, tables, drift, alerts and audits, read at each scrape."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.failure_classification import of_a_server
from extensions.output_files import whole_file
from monitoring.audit.difference_classification import CLASSES, counts
from monitoring.checks import drift_store

# As numbers for alert rules.
VERDICTS = {"insufficient": -1, "ok": 0, "warning": 1, "critical": 2, "error": 3}


class MonitoringCollector:
    """All figures, as of now; without the database there are none, and ``up`` says so."""

    def __init__(self, url: str) -> None:
        self._url = url

    def collect(self) -> Iterator[Metric]:
        """Called at each scrape."""
        reached = GaugeMetricFamily("skewless_monitoring_up", "Whether PostgreSQL answers.")
        try:
            with connect(self._url, autocommit=True, name="skewless metrics") as conn:
                result = [
                    *_views(conn), *_tables(conn), *_drift(conn), *_incidents(conn), *_audits(conn),
                ]  # fmt: skip
        except Exception as error:
            if not (isinstance(error, SkewlessError) or of_a_server(error)):
                raise
            reached.add_metric([], 0)
            yield reached
            return
        reached.add_metric([], 1)
        yield reached
        yield from result


def text(url: str) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(MonitoringCollector(url))
    return generate_latest(registry)


def write_file(url: str, path: Path) -> None:
    """For node exporter's textfile collector, which must never see half a file."""
    with whole_file(path) as partial:
        partial.write_bytes(text(url))


def _views(conn: psycopg.Connection) -> Iterator[Metric]:
    computed = GaugeMetricFamily(
        "skewless_view_computed_seconds",
        "Until when a view's log is complete, as a Unix time.",
        labels=["view", "version"],
    )
    published = GaugeMetricFamily(
        "skewless_view_published_seconds",
        "Until when a view's log is online, as a Unix time.",
        labels=["view", "version"],
    )
    rows = conn.execute(
        "SELECT view_name, version, processed_through, published_through FROM watermarks"
    ).fetchall()
    for view, version, processed_through, published_through in rows:
        computed.add_metric([view, str(version)], processed_through.timestamp())
        if published_through is not None:
            published.add_metric([view, str(version)], published_through.timestamp())
    yield from (computed, published)


def _tables(conn: psycopg.Connection) -> Iterator[Metric]:
    """Sizes; while a table is locked whole, as in a migration, a scrape goes without them."""
    size = GaugeMetricFamily(
        "skewless_table_bytes",
        "A table with its indexes, and of a partitioned one all partitions.",
        labels=["table"],
    )
    try:
        with conn.transaction():
            conn.execute("SET LOCAL lock_timeout = '500ms'")
            rows = conn.execute(
                "SELECT coalesce(pg_partition_root(c.oid), c.oid)::regclass::text, "
                "sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c "
                "WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace "
                "GROUP BY 1"
            ).fetchall()
    except psycopg.errors.LockNotAvailable:
        return
    for table, size_bytes in rows:
        size.add_metric([table], size_bytes)
    yield size


def _drift(conn: psycopg.Connection) -> Iterator[Metric]:
    verdict = GaugeMetricFamily(
        "skewless_drift_verdict",
        "Of the last window: -1 too few rows, 0 ok, 1 warning, 2 critical, 3 error.",
        labels=["service"],
    )
    checked = GaugeMetricFamily(
        "skewless_drift_last_window_end_seconds",
        "Until when windows have been checked, as a Unix time.",
        labels=["service"],
    )
    requests = GaugeMetricFamily(
        "skewless_drift_requests", "Logged requests of the last window.", labels=["service"]
    )
    effect = GaugeMetricFamily(
        "skewless_drift_effect",
        "How far a feature is from its baseline, in units of its warning floor.",
        labels=["service", "feature", "statistic"],
    )
    for service in drift_store.bound_services(conn):
        runs = drift_store.recent_runs(conn, service, 1)
        for run in runs:
            verdict.add_metric([service], VERDICTS[run.verdict])
            checked.add_metric([service], run.window_end.timestamp())
            requests.add_metric([service], run.requests)
            for finding in run.findings:
                if finding.warning:
                    effect.add_metric(
                        [service, finding.feature, finding.statistic],
                        finding.effect / finding.warning,
                    )
    yield from (verdict, checked, requests, effect)


def _incidents(conn: psycopg.Connection) -> Iterator[Metric]:
    incident = GaugeMetricFamily(
        "skewless_drift_incident", "Open incidents.", labels=["service", "severity"]
    )
    rows = conn.execute(
        "SELECT service, severity, count(*) FROM drift_incidents WHERE closed_at IS NULL "
        "GROUP BY 1, 2"
    ).fetchall()
    for service, severity, count in rows:
        incident.add_metric([service, severity], count)
    failing = GaugeMetricFamily(
        "skewless_alert_messages_waiting",
        "Messages that their channel refused at least once.",
        labels=["channel"],
    )
    rows = conn.execute(
        "SELECT channel, count(*) FILTER (WHERE delivered_at IS NULL AND attempts > 0) "
        "FROM drift_notifications GROUP BY 1"
    ).fetchall()
    for channel, count in rows:
        failing.add_metric([channel], count)
    rolled = CounterMetricFamily(
        "skewless_drift_rollbacks", "Rollbacks by verdict.", labels=["view", "outcome"]
    )
    rows = conn.execute(
        "SELECT view_name, CASE WHEN error IS NULL THEN 'done' ELSE 'failed' END, count(*) "
        "FROM drift_rollbacks GROUP BY 1, 2"
    ).fetchall()
    for view, outcome, count in rows:
        rolled.add_metric([view, outcome], count)
    yield from (incident, failing, rolled)


def _audits(conn: psycopg.Connection) -> Iterator[Metric]:
    row = conn.execute(
        "SELECT extract(epoch FROM finished_at)::double precision, report FROM audit_runs "
        "ORDER BY audit_id DESC LIMIT 1"
    ).fetchone()
    finished = GaugeMetricFamily(
        "skewless_audit_finished_seconds", "When the last audit finished, as a Unix time."
    )
    values = GaugeMetricFamily(
        "skewless_audit_values", "Served values of the last audit.", labels=["result"]
    )
    if row is not None:
        finished.add_metric([], row[0])
        result = counts(row[1]["features"])
        for name in CLASSES:
            values.add_metric([name], result[name])
    yield from (finished, values)
