"""Rollback by verdict: a view that stays critical goes back to its previous version, once.

What rolls back is injected: a function of the view, the reason and the evidence that returns
what it did, or raises. `command` makes one of a program. The decision is written with the verdict
and carried out after it; a process that dies in between leaves it to the next one. So a rollback
may be called twice with one reason: it must know by the reason (which names the incident), or by
the version that the evidence names, that it was done before.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from feast.repo_config import load_repo_config
from psycopg.types.json import Jsonb

from extensions.database import connect
from extensions.errors import ConfigurationError, InputError, SkewlessError
from extensions.failpoints import point
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.registry.version_store import active, published
from extensions.value_text import exact_time_text
from extensions.versions.promotion import rollback_once
from monitoring.checks import drift_store
from monitoring.checks.drift_store import Run
from monitoring.failpoints import Fault
from monitoring.verdicts import CRITICAL

Evidence = Mapping[str, Any]
RollBack = Callable[[str, str, Evidence], str]
COMMAND_SECONDS = 60
# Who moved the pointer, in the record of moves.
BY = "skewless drift"


@dataclass(frozen=True)
class Policy:
    """Which views may be rolled back, and after how many critical windows in a row."""

    views: frozenset[str]
    after: int = 2

    def __post_init__(self) -> None:
        if self.after < 1:
            raise InputError("--after must be at least 1 window.")


@dataclass(frozen=True)
class RolledBack:
    """A rollback decision and its outcome; ``error`` is None if it was carried out."""

    view: str
    windows: int
    outcome: str | None
    error: str | None


def follow(
    conn: psycopg.Connection, run: Run, incident: int | None, policy: Policy, roll_back: RollBack
) -> list[RolledBack]:
    """Roll back the views that were critical in the last windows without a gap.

    Once per incident and view; a rollback that failed is tried again with the next critical
    window. An error or too few rows in between begin the count anew.
    """
    if run.verdict != CRITICAL or incident is None:
        return []
    decide(conn, run, incident, policy)
    return carry_out(conn, run.service, policy, roll_back)


def decide(conn: psycopg.Connection, run: Run, incident: int | None, policy: Policy) -> None:
    """Record which views the run is evidence to roll back; `carry_out` does it."""
    if run.verdict != CRITICAL or incident is None:
        return
    for view in sorted(policy.views):
        evidence = _evidence(conn, run, view, policy.after)
        if evidence is not None:
            reason = (
                f"drift of {run.service} was critical in {policy.after} windows in a row, "
                f"the last one until {exact_time_text(run.window_end)} (incident {incident})"
            )
            _claim(conn, incident, view, reason, evidence)


def waiting_services(conn: psycopg.Connection, policy: Policy) -> set[str]:
    """The services of open incidents with a decision that was not carried out."""
    return {service for service, *_ in _waiting(conn, policy)}


def carry_out(
    conn: psycopg.Connection, service: str, policy: Policy, roll_back: RollBack
) -> list[RolledBack]:
    """Carry out decided rollbacks that are still open, while the incident is open."""
    done = []
    for of, incident, view, reason, evidence in _waiting(conn, policy):
        if of != service:
            continue
        outcome = error = None
        point(Fault.ROLLBACK_BEGUN)
        try:
            outcome = roll_back(view, reason, evidence)
        except SkewlessError as refused:
            error = refused.message
        except Exception as broken:  # noqa: BLE001 - whatever happens is recorded
            error = f"{type(broken).__name__}: {broken}"
        point(Fault.ROLLBACK_DONE)
        conn.execute(
            "UPDATE drift_rollbacks SET outcome = %s, error = %s "
            "WHERE incident_id = %s AND view_name = %s",
            [outcome, error, incident, view],
        )
        point(Fault.ROLLBACK_NOTED)
        done.append(RolledBack(view, len(evidence["windows"]), outcome, error))
    return done


def in_repository(repo_root: Path) -> RollBack:
    """As `skewless rollback VIEW` in the repository, once for each reason.

    A default other than the version that the evidence speaks against is left alone.
    """

    def roll_back(view: str, reason: str, evidence: Evidence) -> str:
        config = load_repo_config(repo_root, repo_root / "feature_store.yaml")
        with connect(url_of(config), autocommit=True) as conn:
            return rollback_once(
                conn, config.project, view, reason, by=BY, against=evidence.get("version")
            )

    return roll_back


def command(text: str) -> RollBack:
    """A program that rolls back; exit code 0 means done.

    ``{view}`` in the text is replaced. The environment has ``SKEWLESS_VIEW`` and
    ``SKEWLESS_REASON``; standard input has the evidence as JSON. The last line that it prints is
    kept as what it did. Should this process die before it can keep that, the program is run again
    with the same reason and evidence, whose ``version`` is the one to go back from.
    """
    parts = shlex.split(text)
    if not parts:
        raise InputError("--rollback-command must name a program.")

    def roll_back(view: str, reason: str, evidence: Evidence) -> str:
        try:
            done = subprocess.run(
                [part.replace("{view}", view) for part in parts],
                input=json.dumps(evidence),
                env={**os.environ, "SKEWLESS_VIEW": view, "SKEWLESS_REASON": reason},
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(
                f"{parts[0]} could not be run ({type(error).__name__})."
            ) from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise SkewlessError(f"{parts[0]} ended with {done.returncode}: {said}")
        return (done.stdout.strip().splitlines() or ["done"])[-1]

    return roll_back


def _evidence(conn: psycopg.Connection, run: Run, view: str, windows: int) -> dict[str, Any] | None:
    """The consecutive critical windows of the view; None if there are too few or there is a gap."""
    length = run.window_end - run.window_start
    runs = [
        one
        for one in drift_store.recent_runs(conn, run.service, 4 * windows + 20)
        if one.window_end - one.window_start == length and one.baseline_id == run.baseline_id
    ][-windows:]
    if len(runs) < windows or runs[-1].window_end != run.window_end:
        return None
    if any(a.window_end != b.window_start for a, b in pairwise(runs)):
        return None
    against: list[Sequence[Any]] = [
        [one for one in each.of_view(view) if one.verdict == CRITICAL]
        if each.verdict == CRITICAL
        else []
        for each in runs
    ]
    if not all(against):
        return None
    default = active(published(conn, view))
    return {
        "service": run.service,
        "version": None if default is None else default.version,
        "baseline": run.baseline_id,
        "windows": [
            {
                "from": each.window_start.isoformat(),
                "to": each.window_end.isoformat(),
                "requests": each.requests,
                "findings": [finding.to_json() for finding in findings],
            }
            for each, findings in zip(runs, against, strict=True)
        ],
    }


def _claim(
    conn: psycopg.Connection, incident: int, view: str, reason: str, evidence: Mapping[str, Any]
) -> None:
    """Record the decision before it is carried out; one that failed is decided anew."""
    conn.execute(
        "INSERT INTO drift_rollbacks AS r (incident_id, view_name, reason, evidence) "
        "VALUES (%s, %s, %s, %s) ON CONFLICT (incident_id, view_name) DO UPDATE SET "
        "reason = excluded.reason, evidence = excluded.evidence, error = NULL, "
        "decided_at = clock_timestamp() WHERE r.outcome IS NULL AND r.error IS NOT NULL",
        [incident, view, reason, Jsonb(dict(evidence))],
    )


def _waiting(
    conn: psycopg.Connection, policy: Policy
) -> list[tuple[str, int, str, str, dict[str, Any]]]:
    return conn.execute(
        "SELECT i.service, r.incident_id, r.view_name, coalesce(r.reason, "
        "'drift of ' || i.service || ' was critical (incident ' || r.incident_id || ')'), "
        "r.evidence FROM drift_rollbacks AS r INNER JOIN drift_incidents AS i USING (incident_id) "
        "WHERE r.outcome IS NULL AND r.error IS NULL AND i.closed_at IS NULL "
        "AND r.view_name = ANY(%s) ORDER BY r.incident_id, r.view_name",
        [sorted(policy.views)],
    ).fetchall()
