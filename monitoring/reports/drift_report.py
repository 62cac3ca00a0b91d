"""The drift report: one HTML file that opens anywhere, also without a network."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import psycopg

from extensions.versions.diff_report import document
from monitoring import drift_store
from monitoring.baseline import CATEGORICAL, EMBEDDING, NUMERIC, FeatureBaseline
from monitoring.drift_store import Run
from monitoring.reports import charts
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
SHOWN_CATEGORIES = 15

LOOK = {
    "psi": "the shape of the distribution: compare the bars",
    "mean": "the level: a unit, a scale or a population has changed",
    "sd": "the spread: values were cut off, or a source was mixed in",
    "js": "the mix of categories: a catalogue or a classifier has changed",
    "outside": "values beyond any of the training set: a unit, an overflow, a new source",
    "unseen": "categories that the model never saw: look at the source's latest import",
    "nulls": "missing values: look at the computation and at the source's completeness",
    "defaults": "entities without a row: look at the refresh, and at who asks",
    "stale": "a pipeline that lags: `skewless status`, `skewless refresh --due`",
    "dimension_mean": "a dimension that moved: another model or encoder made the vectors",
    "dimension_sd": "a dimension that died or grew: look at the encoder's output",
    "anchors": "known entities point elsewhere: the embedding space was replaced",
    "volume": "requests that did not come, or that were not logged",
    "schema": "a feature is not in the served log: it left the service, or changed its type",
    "rows": "too few rows to say anything",
}

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color:#1c1c1c;background:#fff}h1{font-size:1.5rem}h2{margin-top:2.5rem;border-top:1px solid #ddd;
padding-top:1rem}h3{margin:1.5rem 0 .3rem}table{border-collapse:collapse;margin:.5rem 0}
td,th{text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:top}
.badge{border-radius:.6rem;padding:.1rem .6rem;font-size:.85rem;color:#fff}
.symptom,.unwatched{background:#888;fill:#bbb}
.ok{background:#3a7d44;fill:#3a7d44}.insufficient{background:#888;fill:#bbb}
.warning{background:#b7791f;fill:#b7791f;stroke:none}
.critical{background:#b3261e;fill:#b3261e}.error{background:#5b3a8c;fill:#5b3a8c}
.pair{display:flex;flex-wrap:wrap;gap:1rem}svg{max-width:100%;height:auto}
rect.was{fill:#c9ced6}rect.now{fill:#2b6cb0}svg text{font-size:10px;fill:#555}
line.warning{stroke:#b7791f;stroke-dasharray:4 3}line.critical{stroke:#b3261e;stroke-dasharray:4 3}
polyline.line{fill:none;stroke:#2b6cb0;stroke-width:1.5}circle.dot{fill:#2b6cb0}
.muted{color:#666}code{background:#f3f3f3;padding:0 .25rem}
"""


def report(conn: psycopg.Connection, services: Sequence[str]) -> str:
    """The page for these services; ``conn`` must be able to read monitoring's tables."""
    made = datetime.now(UTC)
    sections = "".join(_service(conn, service) for service in services)
    return document(
        "Skewless: drift",
        STYLE,
        f"<h1>Drift, as of {made:%Y-%m-%d %H:%M} UTC</h1>{_health(conn, services)}{sections}"
        '<p class="muted">Grey: the training set. Blue: what was served. Dashed: the floors for '
        "a warning and a critical verdict. A verdict needs both: an effect above its floor, and "
        "certainty over all features of the service.</p>",
    )


def _health(conn: psycopg.Connection, services: Sequence[str]) -> str:
    rows = []
    for service in services:
        runs = drift_store.recent_runs(conn, service, WINDOWS)
        last = runs[-1] if runs else None
        strip = charts.strip([(r.verdict, f"{r.window_start:%m-%d %H:%M}") for r in runs])
        rows.append(
            f'<tr><td><a href="#{escape(service)}">{escape(service)}</a></td>'
            f"<td>{_badge(last.verdict) if last else 'never checked'}</td>"
            f"<td>{f'{last.requests:,} logged requests' if last else ''}</td><td>{strip}</td></tr>"
        )
    rows += [
        f"<tr><td>{escape(service)}</td><td>not watched</td><td>served and logged, and has no "
        "baseline: <code>skewless drift baseline</code></td><td></td></tr>"
        for service in drift_store.unwatched_services(conn)
    ]
    nothing = "" if services else f"<p><b>{escape(drift_store.NOTHING_WATCHED)}</b></p>"
    return f"{nothing}<table>{''.join(rows)}</table>{_incidents(conn)}{_audit(conn)}"


def _incidents(conn: psycopg.Connection) -> str:
    rows = conn.execute(
        "SELECT i.service, i.severity, i.opened_window, i.closed_window, i.summary, "
        "(SELECT string_agg(r.view_name || ': ' || coalesce(r.outcome, r.error, '…'), '; ') "
        "FROM drift_rollbacks AS r WHERE r.incident_id = i.incident_id) "
        "FROM drift_incidents AS i ORDER BY i.incident_id DESC LIMIT 10"
    ).fetchall()
    if not rows:
        return '<p class="muted">No incidents.</p>'
    lines = "".join(
        f"<tr><td>{_badge(severity)}</td><td>{escape(service)}</td>"
        f"<td>{opened:%Y-%m-%d %H:%M} – {f'{closed:%m-%d %H:%M}' if closed else 'now'}</td>"
        f"<td>{escape(summary)}{f' Rolled back: {escape(rolled)}.' if rolled else ''}</td></tr>"
        for service, severity, opened, closed, summary, rolled in rows
    )
    return f"<h3>Incidents</h3><table>{lines}</table>"


def _audit(conn: psycopg.Connection) -> str:
    row = conn.execute(
        "SELECT since, until, compared, equal, bugs FROM audit_runs ORDER BY audit_id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return '<p class="muted">No skew audit yet: <code>skewless audit</code>.</p>'
    since, until, compared, equal, bugs = row
    return (
        f"<p>Last skew audit, {since:%Y-%m-%d %H:%M} to {until:%H:%M}: {compared:,} served values "
        f"compared, {equal:,} equal, {_badge(CRITICAL if bugs else OK)} {bugs:,} unexplained.</p>"
    )


def _service(conn: psycopg.Connection, service: str) -> str:
    if service not in drift_store.bound_services(conn):
        return (
            f'<h2 id="{escape(service)}">{escape(service)}</h2>'
            "<p>Not watched: it has no baseline. <code>skewless drift baseline</code></p>"
        )
    identity, baseline = drift_store.bound_baseline(conn, service)
    runs = drift_store.recent_runs(conn, service, WINDOWS, details=True)
    title = f'<h2 id="{escape(service)}">{escape(service)}</h2>'
    about = (
        f'<p class="muted">Baseline {identity[:12]}: {baseline.rows:,} labels, '
        + ", ".join(f"{escape(k)} v{v}" for k, v in baseline.versions.items())
        + ".</p>"
    )
    if not runs:
        return title + about + "<p>Never checked: <code>skewless drift check</code>.</p>"
    last = runs[-1]
    said = f"<p>{escape(last.error)}</p>" if last.error else ""
    lives = _lives(last)
    parts = [
        _feature(one, last, runs, lives.get(one.feature.label, {})) for one in baseline.features
    ]
    views = dict.fromkeys(one.feature.view for one in baseline.features)
    shares = "".join(_shares(view, last) for view in views)
    return (
        f"{title}{about}<p>{_badge(last.verdict)} {last.window_start:%Y-%m-%d %H:%M} to "
        f"{last.window_end:%H:%M} UTC, {last.requests:,} logged requests.</p>{said}"
        f"<table>{shares}</table>{''.join(parts)}"
    )


def _shares(view: str, run: Run) -> str:
    cells = "".join(
        f"<td>{one.statistic} {_badge(one.verdict)} {one.effect:.2%}</td>"
        for one in run.findings
        if one.feature == view and one.statistic in ("defaults", "stale")
    )
    return f"<tr><td>{escape(view)}</td>{cells}</tr>" if cells else ""


def _feature(one: FeatureBaseline, last: Run, runs: Sequence[Run], live: Mapping[str, Any]) -> str:
    label = one.feature.label
    own = [f for f in last.findings if f.feature == label]
    if not own:
        return f"<h3>{escape(label)}</h3><p class='muted'>Not measured.</p>"
    unwatched = [f for f in own if f.verdict == UNWATCHED]
    if unwatched:
        said = f"<p class='muted'>It {escape(str(unwatched[0].because))}</p>"
        return f"<h3>{escape(label)} {_badge(UNWATCHED)}</h3>{said}"
    gravest = max(own, key=_gravity)
    over_time = [_effect_of(run, label, gravest.statistic) for run in runs]
    table = "".join(
        f"<tr><td>{f.statistic}</td><td>{f.effect:.3g}</td><td>{f.warning:g} / {f.critical:g}</td>"
        f"<td>p = {f.p:.2g}</td><td>{_badge(f.verdict)}</td></tr>"
        for f in own
    )
    bad = [f for f in own if f.verdict in (WARNING, CRITICAL)]
    hints = "".join(f"<li>{LOOK[f.statistic]}</li>" for f in bad)
    symptoms = [f for f in own if f.verdict == SYMPTOM]
    causes = dict.fromkeys(f"A symptom: it {f.because}." for f in symptoms)
    verdict = worst(f.verdict for f in own)
    return (
        f"<h3>{escape(label)} {_badge(SYMPTOM if symptoms and verdict == OK else verdict)}</h3>"
        + (f"<ul>{hints}</ul>" if hints else "")
        + "".join(f"<p class='muted'>{escape(one)}</p>" for one in causes)
        + f'<div class="pair"><div>{_distribution(one, live)}</div>'
        f"<div>{charts.line(over_time, gravest.warning, gravest.critical)}"
        f'<div class="muted">{gravest.statistic} over the last {len(runs)} windows</div></div>'
        f"</div><table>{table}</table>"
    )


def _effect_of(run: Run, feature: str, statistic: str) -> float | None:
    for one in run.findings:
        if (one.feature, one.statistic) == (feature, statistic):
            return one.effect
    return None


def _distribution(one: FeatureBaseline, live: Mapping[str, Any]) -> str:
    if one.feature.kind == NUMERIC and "counts" in live:
        total = sum(live["counts"]) or 1
        edges = [f"{edge:.3g}" for edge in one.content["edges"]]
        names = [f"< {edges[0]}", *(f"≥ {edge}" for edge in edges)] if edges else ["all"]
        return charts.bars(names, one.content["weights"], [c / total for c in live["counts"]])
    if one.feature.kind == CATEGORICAL and "counts" in live:
        was, now = one.content["frequencies"], live["counts"]
        total = sum(now.values()) + live["other"] or 1
        ranked = sorted(
            {*was, *now}, key=lambda name: -max(was.get(name, 0), now.get(name, 0) / total)
        )
        names = ranked[:SHOWN_CATEGORIES]
        return charts.bars(
            names, [was.get(n, 0.0) for n in names], [now.get(n, 0) / total for n in names]
        )
    if one.feature.kind == EMBEDDING and "sds" in live:
        names = [f"{place}" for place in range(len(live["sds"]))]
        return charts.bars(names, one.content["sds"], live["sds"]) + (
            '<div class="muted">spread of each dimension</div>'
        )
    return ""


def _lives(run: Run) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for one in run.expectations or ():
        details = (one["result"] or {}).get("details")
        if details and "cosines" not in details["live"]:
            found.setdefault(one["expectation_config"]["kwargs"]["feature"], details["live"])
    return found


def _gravity(finding: Finding) -> tuple[int, float]:
    order = (OK, UNWATCHED, SYMPTOM, INSUFFICIENT, WARNING, CRITICAL).index(finding.verdict)
    return order, finding.effect / (finding.warning or 1)


def _badge(verdict: str) -> str:
    return f'<span class="badge {escape(verdict)}">{escape(verdict)}</span>'
