"""What `skewless versions`, `plan` and `apply` print."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from extensions.cli.console import line, out, print_record, wrapped
from extensions.value_text import bytes_text, duration_text, time_text

if TYPE_CHECKING:
    from extensions.versions.cost_estimate import Estimate
    from extensions.versions.listing import Version
    from extensions.versions.plan import Change, Plan
    from extensions.versions.workload import Workload

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def title(change: "Change") -> str:
    """``item_stats v2``, or the name of a service."""
    return change.name if change.version is None else f"{change.name} v{change.version}"


def show_versions(found: "Iterable[Version]") -> None:
    """A heading for each version, then a line for each thing that is known of it."""
    for i, one in enumerate(found):
        if i:
            line("")
        line(f"{one.view} v{one.version}: {one.state} since {time_text(one.since)}")
        print_record(
            {
                "serves": ", ".join(one.services) or "no service",
                **_cost(one),
                **({"moved by": one.moved_by + (f": {one.reason}" if one.reason else "")}
                   if one.moved_by else {}),
                "fingerprint": one.fingerprint,
            },
            indent="  ",
        )  # fmt: skip


def _cost(one: "Version") -> dict[str, str]:
    told = {}
    if one.log_rows is not None:
        told["log"] = f"{one.log_rows:,} rows of {one.entities or 0:,} entities"
    if one.redis_bytes is not None:
        told["Redis"] = f"about {bytes_text(one.redis_bytes)}"
    if one.behind_seconds is not None:
        told["behind"] = duration_text(one.behind_seconds)
    if one.engines is not None:
        told["engines"] = one.engines
    return told


def show_plan(plan: "Plan", trained: dict[str, list[str]]) -> None:
    """Each change: what it is, its SQL diff, who is downstream, what it costs, what to run next.

    ``trained``: sentences on the models that were trained on a view, by view.
    """
    for change in plan.changes:
        line(f"{title(change)}: {change.severity.name.lower()}", style="bold")
        wrapped(change.what, "  ")
        print_record(change_record(change, trained.get(change.name, [])), indent="  ")
        if change.diff:
            line("")
            _show_diff(change.diff)
        line("")
    for note in plan.notes:
        wrapped(note)
    wrapped(next_step(plan))


def next_step(plan: "Plan") -> str:
    """What to run next."""
    if plan.refused:
        return "Nothing can be applied until what is refused is mended in the files."
    return "Next: `skewless apply` carries this out; nothing that is served changes by it."


def change_record(change: "Change", trained: Sequence[str] = ()) -> dict[str, str]:
    """What is told of a change beside its kind, by a word each; ``trained``: of models."""
    told = {}
    if change.version is not None:
        readers = [*change.services, *(f"{name} (by a transform)" for name in change.through)]
        told["services"] = ", ".join(readers) or "none reads it"
        told["transforms"] = ", ".join(change.consumers) or "none reads it"
    if change.pinned:
        told["pinned by"] = ", ".join(change.pinned)
    if trained:
        told["models"] = "\n".join(trained)
    if change.backfill is not None:
        told["backfill"] = _backfill(change.backfill)
    if change.work is not None:
        told["work"] = _work(change.work)
        if change.work.hot_keys:
            told["hot keys"] = ", ".join(
                f"({', '.join(map(str, hot.keys))}) with {hot.share:.0%} of the work"
                for hot in change.work.hot_keys
            )
    if change.verdict is not None:
        told["engines"] = change.verdict.sentence(hint=not change.warnings)
    if change.warnings:
        told["differs"] = "\n".join(change.warnings)
    return told


def _work(work: "Workload") -> str:
    engine = {"postgresql": "PostgreSQL", "duckdb": "DuckDB"}[work.engine]
    # A verdict stands in a line of its own.
    why = f" ({work.why})" if "there are" in work.why or "the range" in work.why else ""
    hours = f"{work.cpu_hours:.2g}" if work.cpu_hours >= 0.01 else "less than 0.01"
    return (
        f"{engine}{why}, {work.chunks:,} chunks, at most {hours} CPU hours, about "
        f"{bytes_text(work.log_bytes)} of log"
    )


def _backfill(fill: "Estimate") -> str:
    if fill.start >= fill.end:
        span = "no history, only the values as of now"
    else:
        span = f"from {time_text(fill.start)}"
    if fill.rows is None:
        return f"{span}; rows and time not counted because {fill.not_counted}"
    return f"{span}; about {fill.rows:,} rows in {duration_text(fill.seconds or 0.0)}"


def _show_diff(diff: str) -> None:
    for each in diff.splitlines():
        style = _STYLES.get(each[:1], "")
        # A later line of a long one begins like it, so that it is not taken for another kind.
        first = each[: 1 + len(each[1:]) - len(each[1:].lstrip())]
        lines = textwrap.wrap(
            each, out.width - 2, subsequent_indent=f"{first}    ", break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip
        for text in lines or [each]:
            out.print(Text(f"  {text}", style=style), soft_wrap=True, highlight=False)


def markdown(plan: "Plan", trained: dict[str, list[str]]) -> str:
    """The plan as Markdown, for a comment on a pull request."""
    if not plan.changes:
        return "\n".join(["No changes.", *plan.notes])
    parts = []
    for change in plan.changes:
        parts.append(f"### {title(change)}: {change.severity.name.lower()}\n\n{change.what}\n")
        told = change_record(change, trained.get(change.name, []))
        parts.append("\n".join(f"- {k}: {' '.join(v.splitlines())}" for k, v in told.items()))
        if change.diff:
            parts.append(f"\n```diff\n{change.diff}\n```")
        parts.append("")
    return "\n".join([*parts, *plan.notes, next_step(plan)])


def change_json(change: "Change", trained: list[str]) -> dict[str, Any]:
    """A change for programs."""
    fill = change.backfill
    return {
        "view": change.name,
        "version": change.version,
        "severity": change.severity.name.lower(),
        "what": change.what,
        "diff": change.diff,
        "backfill_from": fill and fill.start,
        "rows": fill and fill.rows,
        "seconds": fill and fill.seconds,
        "not_counted": fill and fill.not_counted,
        "services": change.services,
        "consumers": change.consumers,
        "through": change.through,
        "pinned": change.pinned,
        "models": trained,
        "portable": change.verdict and change.verdict.outcome,
        "engines": change.verdict and change.verdict.sentence(),
        "warnings": change.warnings,
        "work": change.work and asdict(change.work),
    }
