"""Rollback by verdict: a view that stays critical goes back to its previous version, once.

What rolls back is injected: a function of the view, the reason and the evidence that returns
what it did, or raises. `command` makes one of a program.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from extensions.errors import SkewlessError
from monitoring import records
from monitoring.records import Run
from monitoring.verdicts import CRITICAL

Evidence = Mapping[str, Any]
RollBack = Callable[[str, str, Evidence], str]
COMMAND_SECONDS = 60


@dataclass(frozen=True)
class Policy:
    """Which views may be rolled back, and after how many critical windows in a row."""

    views: frozenset[str]
    after: int = 2

    def __post_init__(self) -> None:
        if self.after < 1:
            raise SkewlessError("--after must be at least 1 window.", exit_code=3)


@dataclass(frozen=True)
class RolledBack:
    """A decision and what came of it; ``error`` None where it was done."""

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
    done = []
    for view in sorted(policy.views):
        evidence = _evidence(conn, run, view, policy.after)
        if evidence is None or not _claim(conn, incident, view, evidence):
            continue
        reason = (
            f"drift of {run.service} was critical in {policy.after} windows in a row, "
            f"the last one until {run.window_end.isoformat()}"
        )
        outcome = error = None
        try:
            outcome = roll_back(view, reason, evidence)
        except SkewlessError as refused:
            error = refused.format_message()
        except Exception as broken:  # noqa: BLE001 - whatever happens is recorded
            error = f"{type(broken).__name__}: {broken}"
        conn.execute(
            "UPDATE drift_rollbacks SET outcome = %s, error = %s "
            "WHERE incident_id = %s AND view_name = %s",
            [outcome, error, incident, view],
        )
        done.append(RolledBack(view, policy.after, outcome, error))
    return done


def command(text: str) -> RollBack:
    """A program that rolls back; exit code 0 means done.

    ``{view}`` in the text is replaced. The environment has ``SKEWLESS_VIEW`` and
    ``SKEWLESS_REASON``; standard input has the evidence as JSON. The last line that it prints is
    kept as what it did.
    """
    parts = shlex.split(text)
    if not parts:
        raise SkewlessError("--rollback-command must name a program.", exit_code=3)

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
            raise SkewlessError(f"{parts[0]} could not be run ({type(error).__name__}).") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise SkewlessError(f"{parts[0]} ended with {done.returncode}: {said}")
        return (done.stdout.strip().splitlines() or ["done"])[-1]

    return roll_back


def _evidence(conn: psycopg.Connection, run: Run, view: str, windows: int) -> dict[str, Any] | None:
    """The windows that speak against the view; None unless there are enough, without a gap."""
    length = run.window_end - run.window_start
    runs = [
        one
        for one in records.recent_runs(conn, run.service, 4 * windows + 20)
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
    return {
        "service": run.service,
        "baseline": run.baseline_id,
        "windows": [
            {
                "from": each.window_start.isoformat(),
                "to": each.window_end.isoformat(),
                "requests": each.requests,
                "findings": [one.to_json() for one in findings],
            }
            for each, findings in zip(runs, against, strict=True)
        ],
    }


def _claim(conn: psycopg.Connection, incident: int, view: str, evidence: Mapping[str, Any]) -> bool:
    """Record the decision before it is carried out; False where it was carried out before."""
    row = conn.execute(
        "INSERT INTO drift_rollbacks AS r (incident_id, view_name, evidence) VALUES (%s, %s, %s) "
        "ON CONFLICT (incident_id, view_name) DO UPDATE SET evidence = excluded.evidence, "
        "decided_at = clock_timestamp() WHERE r.outcome IS NULL AND r.error IS NOT NULL "
        "RETURNING 1",
        [incident, view, Jsonb(dict(evidence))],
    ).fetchone()
    return row is not None
