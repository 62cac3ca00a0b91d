"""The drift check: compare one window of one service with its baseline, once."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from extensions.database import connect
from extensions.errors import InputError
from extensions.failpoints import point
from extensions.failure_classification import first_line, of_a_server
from extensions.value_text import exact_time_text
from monitoring.baseline import Baseline, FeatureBaseline
from monitoring.baselines.stratified_baselines import conditioned
from monitoring.checks import drift_store
from monitoring.checks.cause_and_symptom import muted
from monitoring.checks.drift_store import Run
from monitoring.checks.row_worth import RowWorth
from monitoring.checks.serving_log_window import (
    Window,
    count_requests,
    relations,
    rows_by,
)
from monitoring.failpoints import Fault
from monitoring.verdicts import (
    CRITICAL,
    ERROR,
    FLOORS,
    INSUFFICIENT,
    LEAST_ROWS,
    OK,
    SYMPTOM,
    UNWATCHED,
    WARNING,
    Finding,
    worst,
)

logger = logging.getLogger(__name__)

# Called with the session whose transaction records the run.
Decide = Callable[[psycopg.Connection, Run], Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Great Expectations' results as JSON; features that are not watched here, and why not."""

    results: list[dict[str, Any]]
    unwatched: Mapping[str, str]


def check(
    url: str,
    window: Window,
    *,
    least_rows: int = LEAST_ROWS,
    again: bool = False,
    decide: Decide | None = None,
) -> Run:
    """Compare a window with the service's baseline, and record the verdict.

    The same window and baseline are compared once: the second time the recorded run comes back.
    ``again`` compares once more and records nothing. What goes wrong while measuring is the
    verdict ``error``, which is recorded too and tried again the next time. ``decide`` writes what
    follows from a new verdict in the verdict's own transaction: there is never one without the
    other.

    Raises:
        SkewlessError: the service has no baseline, or another check of it is running.
    """
    with connect(url, autocommit=True, name="skewless drift") as conn:
        baseline_id, baseline = drift_store.bound_baseline(conn, window.service)
        _check_ended(conn, window)
        with drift_store.alone(conn, window.service):
            if not again and (done := drift_store.recorded(conn, window, baseline_id)) is not None:
                return done
            run = _measured(conn, url, window, baseline_id, baseline, least_rows)
            if not again:
                with conn.transaction():
                    drift_store.record(conn, run)
                    point(Fault.VERDICT_RECORDED)
                    if decide is not None:
                        decide(conn, run)
                    point(Fault.REACTION_DECIDED)
                point(Fault.REACTION_COMMITTED)
    return run


def _measured(
    conn: psycopg.Connection,
    url: str,
    window: Window,
    baseline_id: str,
    baseline: Baseline,
    least_rows: int,
) -> Run:
    requests = 0
    try:
        requests = count_requests(conn, window)
        enough = requests >= least_rows
        measured = measure(conn, url, window, baseline, least_rows, anchors=enough)
        findings, errors = read_results(measured.results, enough=enough)
        findings = muted(findings, [feature.feature for feature in baseline.features])
        findings += [_not_watched(label, why) for label, why in measured.unwatched.items()]
        findings.sort(key=_gravity)
    except Exception as error:  # whatever it is, it is no drift
        reason = f"{type(error).__name__}: {first_line(error)}"
        if of_a_server(error):
            logger.warning("The drift check of %s failed: %s", window.service, reason)
        else:  # a mistake of ours: where it is, only a traceback says
            logger.exception("The drift check of %s failed.", window.service)
        return Run(
            window.service, window.start, window.end, baseline_id, ERROR, requests, (), reason
        )
    return Run(
        service=window.service,
        window_start=window.start,
        window_end=window.end,
        baseline_id=baseline_id,
        verdict=ERROR if errors else worst(finding.verdict for finding in findings),
        requests=requests,
        findings=tuple(findings),
        error="; ".join(errors)[:2000] or None,
        expectations=measured.results,
    )


def measure(
    conn: psycopg.Connection,
    url: str,
    window: Window,
    baseline: Baseline,
    least_rows: int,
    *,
    anchors: bool = True,
) -> Measured:
    """Great Expectations' results; inside PostgreSQL, view by view."""
    from monitoring import suite  # noqa: PLC0415 - Great Expectations takes seconds

    rules = suite.Rules.of(
        baseline, drift_store.floors_of(conn, window.service), least_rows=least_rows
    )
    usual = drift_store.usual_requests(conn, window)
    compared, unwatched = for_window(conn, window, baseline)
    measuring = suite.Measuring(url)
    results: list[dict[str, Any]] = []
    try:
        with relations(conn, baseline, window) as names:
            for view, rows in names.views.items():
                asked = suite.expectations_of(compared, view, rules, set(rows.columns), unwatched)
                batch = measuring.of_relation(rows.name)
                results += as_json(measuring.validate(batch, asked))
            for feature in baseline.features:
                if anchors and (relation := names.anchors.get(feature.feature.label)) is not None:
                    batch = measuring.of_relation(relation.name)
                    results += as_json(
                        measuring.validate(batch, [suite.anchors_of(feature, rules)])
                    )
            if usual is not None:
                batch = measuring.of_relation(names.requests.name)
                asked = [suite.volume_of(window.service, usual, rules)]
                results += as_json(measuring.validate(batch, asked))
    finally:
        measuring.close()
    return Measured(results, unwatched)


def for_window(
    conn: psycopg.Connection, window: Window, baseline: Baseline
) -> tuple[Baseline, dict[str, str]]:
    """The baseline as it is for a window's hours, requests and entities.

    Returns it with the features that cannot be compared in this window, and why not, by label.
    """
    features, unwatched = [], {}
    rows: dict[tuple[str, str], dict[str, int]] = {}
    worth = RowWorth(conn, window)
    for feature in baseline.features:
        result: FeatureBaseline | str = feature
        if (strata := feature.content.get("strata")) is not None:
            key = feature.feature.view, strata["by"]
            if key not in rows:
                rows[key] = rows_by(conn, window, *key)
            result = conditioned(feature, rows[key])
        if isinstance(result, str):
            unwatched[feature.feature.label] = result
            result = feature
        share = worth.of(feature)
        if share is not None:
            result = dataclasses.replace(result, content={**result.content, "independent": share})
        features.append(result)
    return dataclasses.replace(baseline, features=tuple(features)), unwatched


def read_results(
    results: list[dict[str, Any]], *, enough: bool = True
) -> tuple[list[Finding], list[str]]:
    """Findings, the gravest first, and what went wrong: an expectation that raises is no drift.

    Without ``enough`` requests a column that is not there yet is no news.
    """
    findings: list[Finding] = []
    errors: list[str] = []
    for result in results:
        config, info = result["expectation_config"], result["exception_info"]
        raised = [info] if "raised_exception" in info else list(info.values())
        messages = [str(each["exception_message"]) for each in raised if each["raised_exception"]]
        if messages:
            errors.append(f"{config['type']} {config['kwargs'].get('column', '')}: {messages[0]}")
        elif config["type"] == "expect_column_to_exist":
            if not result["success"]:
                verdict = CRITICAL if enough else INSUFFICIENT
                findings.append(_not_there(config["meta"]["feature"], verdict))
        else:
            details = result["result"]["details"]
            findings += [Finding.from_json(each) for each in details["findings"]]
    findings.sort(key=_gravity)
    return findings, errors


def _not_there(feature: str, verdict: str) -> Finding:
    floor = FLOORS["schema"]
    return Finding(feature, "schema", 1.0, 0.0, floor.warning, floor.critical, verdict)


def _not_watched(feature: str, why: str) -> Finding:
    return Finding(feature, "hours", 0.0, 1.0, 0.0, 0.0, UNWATCHED, why)


def _gravity(finding: Finding) -> tuple[int, float]:
    order = (CRITICAL, WARNING, INSUFFICIENT, SYMPTOM, UNWATCHED, OK)
    return order.index(finding.verdict), -finding.effect / (finding.warning or 1)


def as_json(result: Any) -> list[dict[str, Any]]:
    """Results as JSON: without the baseline (stored once), non-finite numbers as text."""
    found = []
    for one in result.to_json_dict()["results"]:
        config = one["expectation_config"]
        kwargs = {k: v for k, v in config["kwargs"].items() if k not in ("baseline", "batch_id")}
        kept = {**one, "expectation_config": {**config, "kwargs": kwargs}}
        kept["exception_info"] = _without_traces(one["exception_info"])
        found.append(_finite(kept))
    return found


def _without_traces(info: Mapping[str, Any]) -> Mapping[str, Any]:
    if "raised_exception" in info:
        return {k: v for k, v in info.items() if k != "exception_traceback"}
    return {name: _without_traces(one) for name, one in info.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _check_ended(conn: psycopg.Connection, window: Window) -> None:
    row = conn.execute("SELECT clock_timestamp() >= %s", [window.end]).fetchone()
    if not row or not row[0]:
        raise InputError(
            f"The window ends at {exact_time_text(window.end)}, which has not come yet: what is "
            "checked once is not checked again.",
        )
