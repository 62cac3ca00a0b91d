"""What drift checks, calibrations and audits print."""

from typing import TYPE_CHECKING, Any

from extensions.cli.console import emit, err, line, print_record, print_rows, wrapped
from extensions.structured_logs import figures, switched_on
from extensions.value_text import evidence_text, number_text

if TYPE_CHECKING:
    from monitoring.audit.skew_audit import AuditReport
    from monitoring.checks.calibration import Calibration
    from monitoring.checks.drift_schedule import Reaction, Unfinished
    from monitoring.checks.drift_store import Run


def show(runs: "list[Run]", *, as_json: bool) -> None:
    """Runs as JSON, or a line for each and their findings."""
    if as_json:
        emit([_whole(run) for run in runs], as_json=True)
        return
    emit([_summary(run) for run in runs], as_json=False)
    for run in runs:
        if run.error:
            wrapped(f"{run.service}: {run.error}", console=err)
        emit(
            [
                {
                    "feature": one.feature,
                    "statistic": one.statistic,
                    "effect": f"{one.effect:.3g}",
                    "by_chance": f"{one.p:.1g}",
                    "warning_at": f"{one.warning:.3g}",
                    "critical_at": f"{one.critical:.3g}",
                    "verdict": one.verdict,
                }
                for one in [*_bad(run), *_of(run, "symptom")]
            ],
            as_json=False,
        )
        for one in [*_of(run, "symptom"), *_of(run, "unwatched")]:
            wrapped(f"{one.feature} {one.because}", console=err)


def note(run: "Run") -> None:
    """A run for the output of a program that runs until it is stopped."""
    if switched_on():
        figures("window checked", _summary(run))
    else:
        show([run], as_json=False)


def _summary(run: "Run") -> dict[str, Any]:
    """A run in one line."""
    return {
        "service": run.service,
        "from": run.window_start,
        "to": run.window_end,
        "requests": run.requests,
        "verdict": run.verdict,
        "look_at": ", ".join(dict.fromkeys(f.feature for f in _bad(run))) or None,
    }


def say(reaction: "Reaction | Unfinished") -> None:
    """What followed from a verdict, and what failed."""
    for one in reaction.deliveries:
        if one.error:
            wrapped(f"The {one.channel} channel failed: {one.error}.", console=err)
    for done in reaction.rolled_back:
        what = done.outcome or f"failed: {done.error}"
        wrapped(f"Rollback of {done.view} by verdict: {what}", console=err)


def _range(one: Any) -> dict[str, Any]:
    def between(pair: tuple[float, float] | None) -> str | None:
        return None if pair is None else f"{number_text(pair[0])} to {number_text(pair[1])}"

    return {
        "feature": one.feature,
        "mean": between(one.mean),
        "sd": between(one.sd),
        "minimum": one.minimum,
        "maximum": one.maximum,
        "top": ", ".join(f"{name} {share:.0%}" for name, share in (one.top or {}).items()) or None,
    }


def show_audit(found: "AuditReport", *, as_json: bool) -> None:
    """Each feature, the unexplained cases, the sum."""
    if as_json:
        emit([found], as_json=True)
        return
    # Classes that nothing fell into would only take room.
    classes = [
        name
        for name in ("lag", "late", "overdue", "version", "bug")
        if name == "bug" or any(getattr(one, name) for one in found.features)
    ]
    if found.features:
        print_rows(
            [
                {
                    "feature": one.feature,
                    **{name: f"{getattr(one, name):,}" for name in ("compared", "equal", *classes)},
                }
                for one in found.features
            ]
        )
    for one in found.features:
        for case in one.worst:
            if case["class"] in ("bug", "overdue"):
                line("")
                line(f"{one.feature}:")
                print_record({k: evidence_text(v) for k, v in case.items()}, indent="  ")
    for view in found.views:
        for difference in view.worst:
            line("")
            wrapped(difference.sentence(), hanging="  ")
            wrapped(difference.advice, "  → ")
    for each in found.differing:
        line("")
        wrapped(each.sentence, hanging="  ")
        wrapped(each.advice, "  → ")
    for sentence in found.left_out:
        wrapped(f"Not seen: {sentence}", hanging="  ", console=err)
    wrapped(
        f"{found.requests:,} requests, {found.compared:,} values compared, "
        f"{found.equal:,} equal, {found.bugs:,} unexplained.",
        console=err,
    )
    wrapped(promise(found), console=err)


def promise(found: "AuditReport") -> str:
    """One line: does served = trained = recomputed hold, and of how much was it seen?"""
    seen = f"{found.compared:,} served values and {found.entities:,} entities of {len(found.views)}"
    if found.bugs or found.apart or found.differing:
        causes: dict[str, int] = {}
        for view in found.views:
            for cause, count in view.counts.items():
                causes[cause] = causes.get(cause, 0) + count
        if found.bugs:
            causes["served values that nothing explains"] = found.bugs
        if found.differing:
            causes["texts that differ between engines"] = len(found.differing)
        told = ", ".join(f"{count:,} {cause}" for cause, count in causes.items())
        return f"served = trained = recomputed: BROKEN ({told}; {seen} views looked at)."
    if found.overdue:
        return (
            f"served = trained = recomputed, but {found.overdue:,} are behind by more than the "
            f"freshness budget ({seen} views looked at)."
        )
    if found.blind:
        return f"served = trained = recomputed in what was seen, which is not all ({seen} views)."
    return f"served = trained = recomputed: 0 differences ({seen} views)."


def _whole(run: "Run") -> dict[str, Any]:
    return {
        "service": run.service,
        "from": run.window_start,
        "to": run.window_end,
        "baseline": run.baseline_id,
        "requests": run.requests,
        "verdict": run.verdict,
        "error": run.error,
        "findings": [one.to_json() for one in run.findings],
    }


def _of(run: "Run", verdict: str) -> list[Any]:
    return [one for one in run.findings if one.verdict == verdict]


def _bad(run: "Run") -> list[Any]:
    return [one for one in run.findings if one.verdict in ("warning", "critical")]


def show_calibration(found: "Calibration", *, as_json: bool) -> None:
    """Proposals and ranges."""
    if as_json:
        emit([found], as_json=True)
    else:
        emit(
            [
                {
                    "feature": one.feature,
                    "statistic": one.statistic,
                    "median": f"{one.median:.3g}",
                    "largest": f"{one.largest:.3g}",
                    "warning_at": f"{one.floor.warning:.3g}",
                    "proposed": f"{one.proposed.warning:.3g} / {one.proposed.critical:.3g}"
                    if one.raised
                    else None,
                }
                for one in found.proposals
            ],
            as_json=False,
        )
        emit([_range(one) for one in found.ranges], as_json=False)
