"""The drift report: one HTML file that opens anywhere, also without a network."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from extensions.reports import charts
from extensions.reports.html import Markup, badge, code_spans, document, element, legend, table
from extensions.reports.numbers import MISSING, chance, share, timestamp
from monitoring.baseline import Baseline, FeatureBaseline
from monitoring.checks import drift_store
from monitoring.checks.drift_check import for_window
from monitoring.checks.drift_store import Run
from monitoring.checks.serving_log_window import Window
from monitoring.reports.distribution_charts import distribution_chart
from monitoring.reports.statistic_guide import GUIDES, guide_of
from monitoring.verdicts import (
    CRITICAL,
    INSUFFICIENT,
    OK,
    SYMPTOM,
    UNWATCHED,
    WARNING,
    Finding,
    worst,
)

WINDOWS = 48
_GRAVITY = (OK, UNWATCHED, SYMPTOM, INSUFFICIENT, WARNING, CRITICAL)


def report(conn: psycopg.Connection, services: Sequence[str]) -> str:
    """The page for these services; ``conn`` must be able to read monitoring's tables."""
    title = f"Drift report, {timestamp(datetime.now(UTC))}"
    return document(
        title,
        element("h1", title),
        *_health(conn, services),
        *(_service(conn, service) for service in services),
        element("h2", "How to read this"),
        *_explanation(),
    )


def _health(conn: psycopg.Connection, services: Sequence[str]) -> list[Markup]:
    parts = []
    if not services:
        parts.append(element("p", element("strong", drift_store.NOTHING_WATCHED)))
    rows: list[tuple[Any, ...]] = []
    for service in services:
        runs = drift_store.recent_runs(conn, service, WINDOWS)
        last = runs[-1] if runs else None
        verdicts = [(run.verdict, timestamp(run.window_start)) for run in runs]
        rows.append(
            (
                element("a", service, href=f"#{service}"),
                badge(last.verdict) if last else "never checked",
                f"{last.requests:,}" if last else MISSING,
                charts.strip(f"Verdicts of {service}", verdicts) if runs else MISSING,
            )
        )
    without = element(
        "span", "not watched: no baseline, run ", element("code", "skewless drift baseline")
    )
    rows += [(name, without, MISSING, MISSING) for name in drift_store.unwatched_services(conn)]
    if rows:
        columns = ("Service", "Last verdict", "Logged requests", "Verdicts, oldest first")
        parts.append(table("Services and their last windows", columns, rows, numeric=(2,)))
    return [*parts, _incidents(conn), _audit(conn)]


def _incidents(conn: psycopg.Connection) -> Markup:
    records = conn.execute(
        "SELECT i.service, i.severity, i.opened_window, i.closed_window, i.summary, "
        "(SELECT string_agg(r.view_name || ': ' || coalesce(r.outcome, r.error, '…'), '; ') "
        "FROM drift_rollbacks AS r WHERE r.incident_id = i.incident_id) "
        "FROM drift_incidents AS i ORDER BY i.incident_id DESC LIMIT 10"
    ).fetchall()
    if not records:
        return element("p", "No incidents.", class_="muted")
    rows = [
        (
            service,
            badge(severity),
            timestamp(opened),
            timestamp(closed) if closed else "still open",
            f"{summary} Rolled back: {rolled}." if rolled else summary,
        )
        for service, severity, opened, closed, summary, rolled in records
    ]
    columns = ("Service", "Severity", "From", "Until", "What was found")
    return table("Incidents, the latest first", columns, rows, wide=(4,))


def _audit(conn: psycopg.Connection) -> Markup:
    row = conn.execute(
        "SELECT since, until, compared, equal, bugs FROM audit_runs ORDER BY audit_id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return element("p", "No skew audit yet: ", element("code", "skewless audit"), ".",
                       class_="muted")  # fmt: skip
    since, until, compared, equal, bugs = row
    return element(
        "p",
        f"Last skew audit, {timestamp(since)} to {timestamp(until)}: {compared:,} served values "
        f"compared, {equal:,} equal, {bugs:,} unexplained ",
        badge(CRITICAL if bugs else OK),
    )


def _service(conn: psycopg.Connection, service: str) -> Markup:
    title = element("h2", f"Service {service}", id=service)
    if service not in drift_store.bound_services(conn):
        advice = element("code", "skewless drift baseline")
        return title + element("p", "Not watched: it has no baseline. ", advice)
    identity, baseline = drift_store.bound_baseline(conn, service)
    runs = drift_store.recent_runs(conn, service, WINDOWS, details=True)
    versions = ", ".join(f"{view} v{version}" for view, version in baseline.versions.items())
    parts = [
        title,
        element(
            "p",
            f"Compared with the training set of baseline {identity[:12]}: {baseline.rows:,} "
            f"labels; {versions}.",
            class_="muted",
        ),
    ]
    if not runs:
        parts.append(element("p", "Never checked: ", element("code", "skewless drift check"), "."))
        return Markup("").join(parts)
    last = runs[-1]
    parts.append(
        element(
            "p", badge(last.verdict),
            f" in the window {timestamp(last.window_start)} to {timestamp(last.window_end)}, "
            f"{last.requests:,} logged requests.",
        )
    )  # fmt: skip
    if last.error:
        parts.append(
            element("p", f"The check failed, which says nothing about drift: {last.error}")
        )
    parts += _conclusions(last)
    parts += _features(conn, baseline, runs)
    return Markup("").join(parts)


def _conclusions(run: Run) -> list[Markup]:
    """Causes, then what follows from them, then what could not be compared."""
    parts = []
    causes = [f for f in run.findings if f.verdict in (WARNING, CRITICAL)]
    if causes:
        rows = [
            (
                element("code", finding.feature),
                badge(finding.verdict),
                _statistic(finding),
                _effect(finding),
                _floors(finding),
                guide_of(finding.statistic).action,
            )
            for finding in causes
        ]
        columns = ("Where", "Verdict", "What changed", "By", "Floors", "What to do")
        parts += [
            element("h3", "Causes: what changed"),
            table("Findings above their floors", columns, rows, numeric=(3,), wide=(5,)),
        ]
    elif run.error is None:
        parts.append(element("p", "Nothing is above its floor and certain."))
    symptoms = [f for f in run.findings if f.verdict == SYMPTOM]
    if symptoms:
        by_cause: dict[str, list[str]] = {}
        for finding in symptoms:
            symptom = f"{finding.feature}: {guide_of(finding.statistic).title} ({_effect(finding)})"
            by_cause.setdefault(finding.because or "", []).append(symptom)
        parts += [
            element("h3", "Symptoms: what follows from a cause"),
            element("p", "They go away with their cause, and raise no alarm of their own."),
            element(
                "ul",
                *(
                    element(
                        "li",
                        _sentence(because),
                        element("ul", *(element("li", line) for line in lines)),
                    )
                    for because, lines in by_cause.items()
                ),
            ),
        ]
    apart = [f for f in run.findings if f.verdict in (UNWATCHED, INSUFFICIENT)]
    if apart:
        parts += [
            element("h3", "Not compared in this window"),
            element("ul", *(element("li", f"{f.feature}: ", _reason(f)) for f in apart)),
        ]
    return parts


def _features(conn: psycopg.Connection, baseline: Baseline, runs: Sequence[Run]) -> list[Markup]:
    """A section per view and feature, the gravest first."""
    last = runs[-1]
    live = _live_distributions(last)
    window = Window(last.service, last.window_start, last.window_end)
    # A feature that follows the hour was compared with the training set's rows at like hours.
    compared = {one.feature.label: one for one in for_window(conn, window, baseline)[0].features}
    names = {feature.feature.label: feature for feature in baseline.features}
    views = dict.fromkeys(feature.feature.view for feature in baseline.features)
    sections = []
    for label in (*names, *views, last.service):
        own = [f for f in last.findings if f.feature == label]
        feature = compared.get(label)
        gravity = max((_gravity(f) for f in own), default=(-1, 0.0))
        if own:
            sections.append((gravity, _section(label, own, runs, feature, live.get(label, {}))))
        elif feature is not None:
            absent = element("p", "Not measured in this window.", class_="muted")
            sections.append((gravity, element("h4", label) + absent))
    sections.sort(key=lambda section: section[0], reverse=True)
    return [
        element("h3", "All features, the gravest first"),
        legend({"first": "training set", "second": "served in this window"}),
        *(section for _, section in sections),
    ]


def _section(
    label: str,
    own: Sequence[Finding],
    runs: Sequence[Run],
    feature: FeatureBaseline | None,
    live: Mapping[str, Any],
) -> Markup:
    verdict = worst(finding.verdict for finding in own)
    quiet = {finding.verdict for finding in own} & {SYMPTOM, UNWATCHED}
    shown = min(quiet) if quiet and verdict == OK else verdict
    parts = [element("h4", label, " ", badge(shown))]
    measured = [finding for finding in own if finding.verdict != UNWATCHED]
    causes = dict.fromkeys(finding.because for finding in own if finding.because)
    parts += [element("p", _sentence(because), class_="muted") for because in causes]
    if measured:
        gravest = max(measured, key=_gravity)
        charts_of = [] if feature is None else [distribution_chart(feature, live)]
        charts_of.append(_over_time(label, gravest.statistic, runs, gravest))
        parts += [element("div", *charts_of, class_="charts"), _statistics(label, measured)]
    return Markup("").join(parts)


def _over_time(label: str, statistic: str, runs: Sequence[Run], finding: Finding) -> Markup:
    if not finding.warning:
        return Markup("")
    guide = guide_of(statistic)
    values = [
        next(
            (f.effect for f in run.findings if (f.feature, f.statistic) == (label, statistic)), None
        )
        for run in runs
    ]
    floors = [charts.FloorLine(finding.warning, WARNING)]
    if finding.critical > finding.warning:
        floors.append(charts.FloorLine(finding.critical, CRITICAL))
    caption = f"{_capital(guide.title)} {_windows(len(runs))}"
    times = [run.window_start for run in runs]
    line = charts.time_line(f"{label}: {caption}", times, values, floors, guide.effect)
    return element("figure", element("figcaption", caption), line)


def _windows(count: int) -> str:
    return "in the last window" if count == 1 else f"over the last {count} windows"


def _statistics(label: str, findings: Sequence[Finding]) -> Markup:
    rows = [
        (_statistic(f), _effect(f), _floors(f), chance(f.p), badge(f.verdict)) for f in findings
    ]
    columns = ("Statistic", "Effect", "Floors", "Chance", "Verdict")
    return table(f"Statistics of {label}", columns, rows, numeric=(1,))


def _statistic(finding: Finding) -> Markup:
    """Its title, and the name by which commands and alerts call it."""
    return Markup("{} {}").format(
        guide_of(finding.statistic).title, element("code", finding.statistic)
    )


def _effect(finding: Finding) -> str:
    return guide_of(finding.statistic).effect(finding.effect)


def _floors(finding: Finding) -> str:
    guide = guide_of(finding.statistic)
    if not finding.warning:
        return MISSING
    return f"{guide.effect(finding.warning)} / {guide.effect(finding.critical)}"


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _reason(finding: Finding) -> str | Markup:
    if finding.verdict == INSUFFICIENT:
        return f"too few rows to say anything ({finding.effect:,.0f})"
    return code_spans(finding.because or "not comparable")


def _sentence(because: str) -> Markup:
    return code_spans(f"It {because}.") if because else Markup("")


def _live_distributions(run: Run) -> dict[str, Mapping[str, Any]]:
    """What was served, by feature, as the expectations of the window measured it."""
    result: dict[str, Mapping[str, Any]] = {}
    for expectation in run.expectations or ():
        details = (expectation["result"] or {}).get("details")
        if details and "cosines" not in details["live"]:
            feature = expectation["expectation_config"]["kwargs"]["feature"]
            result.setdefault(feature, details["live"])
    return result


def _gravity(finding: Finding) -> tuple[int, float]:
    return _GRAVITY.index(finding.verdict), finding.effect / (finding.warning or 1)


def _explanation() -> list[Markup]:
    terms = [
        (
            "Verdict",
            (
                "A warning or a critical verdict needs two things: an effect above its floor, and "
                "certainty. Certainty counts over all features and statistics of the service "
                f"together, so that a service that does not change gets a warning in at most "
                f"{share(0.005)} of its windows."
            ),
        ),
        (
            "Floors",
            (
                "The least effect that is worth a warning, and a critical verdict: drawn as dashed "
                "lines. skewless drift calibrate raises those that ordinary windows reach."
            ),
        ),
        (
            "Chance",
            (
                "How likely an effect of this size is if nothing changed. Small chances of small "
                "effects are common in large windows, and are no alarm."
            ),
        ),
        (
            "Cause and symptom",
            (
                "Where many more requested entities have no row than in training, all features of "
                "that view take their defaults. The missing rows are the cause; what the features "
                "show is a symptom."
            ),
        ),
        *(
            (
                Markup("{} {}").format(_capital(guide.title), element("code", name)),
                f"{guide.meaning} {guide.action}",
            )
            for name, guide in GUIDES.items()
        ),
    ]
    entries = (
        element("dt", term) + element("dd", meaning) for term, meaning in terms
    )  # fmt: skip
    return [element("dl", *entries)]
