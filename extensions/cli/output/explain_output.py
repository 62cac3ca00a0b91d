"""What `skewless explain` prints."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from extensions.cli.console import err, line, print_rows, wrapped
from extensions.explain.report import (
    Comparison,
    Effect,
    Event,
    Explanation,
    LoggedRow,
    SourceEvents,
)
from extensions.value_text import MISSING, duration_text, evidence_text, exact_time_text, printable
from extensions.version_names import version_name

# Characters of a text that are printed.
_LONGEST = 60
_HOW = {
    "own": "the entity's own",
    "shared": "by a key that they share",
    "through": "named by its own",
    "whole": "whoever they are about",
}


def show(found: Explanation) -> None:
    """The three values, whether they are equal, the log before, and the events."""
    name = found.view if found.version is None else version_name(found.view, found.version)
    state = f" ({found.state})" if found.state else ""
    wrapped(f"{name}{state}, {_keys(found.entity)}, as of {exact_time_text(found.as_of)}")
    line("")
    _show_values(found)
    line("")
    if found.served is not None:
        at = f", as of {exact_time_text(found.served.as_of)}" if found.served.as_of else ""
        wrapped(f"Served now: {found.served.status}{at}.", hanging="  ")
    wrapped(f"Logged: {_row(found.logged)}.", hanging="  ")
    for each in found.comparisons:
        wrapped(_sentence(each), hanging="  ")
    if found.equal:
        sides = "served = logged" if found.recomputed is None else "served = logged = recomputed"
        wrapped(f"{sides}, to the bit." if found.served else "logged = recomputed, to the bit.")
    if found.before:
        line("")
        line("The log's rows before:")
        for row in found.before:
            values = ", ".join(f"{name} {_value(value)}" for name, value in row.values.items())
            wrapped(f"{exact_time_text(row.as_of)}: {values}", "  ", hanging="    ")
    for source in found.sources:
        _show_source(source, since=found.before[0].as_of if found.before else None)
    _show_additive(found.additive)
    for note in found.notes:
        wrapped(note, hanging="  ", console=err)


def _show_values(found: Explanation) -> None:
    sides: dict[str, Mapping[str, Any] | None] = {
        "served_now": found.served.values if found.served else None,
        "logged": found.logged.values if found.logged else None,
    }
    if found.recomputed is not None:
        sides["recomputed"] = found.recomputed
    names = list(dict.fromkeys(name for values in sides.values() for name in values or ()))
    rows = [
        {"feature": name}
        | {side: MISSING if values is None else _value(values.get(name))
           for side, values in sides.items()}
        for name in names
    ]  # fmt: skip
    if rows:
        print_rows(rows)


def _show_source(source: SourceEvents, since: datetime | None) -> None:
    line("")
    if source.known is None:
        told = f"{source.source}: more rows count than are told, {_HOW[source.how]}"
    else:
        rows = "row counts" if source.known == 1 else "rows count"
        told = f"{source.source}: {source.known:,} {rows}, {_HOW[source.how]}"
    if since is not None and source.entered is not None:
        gone = "" if source.left is None else f", {source.left:,} left"
        told += f"; since {exact_time_text(since)} {source.entered:,} entered{gone}"
    wrapped(f"{told}.", hanging="  ")
    for each in source.events:
        _show_event(each, mark="+" if each.new else " ")
    for each in source.departed:
        _show_event(each, mark="-")


def _show_event(event: Event, mark: str) -> None:
    changed = [
        f"{name} {_difference(effect)}" for name, effect in event.effects.items() if effect.changed
    ]
    effects = ", ".join(changed) if changed else "changes nothing" if event.effects else ""
    if mark == "-":
        effects = "left" if event.leaves is None else f"left {exact_time_text(event.leaves)}"
    wrapped(f"{exact_time_text(event.time)}  {effects}".rstrip(), f"{mark} ", hanging="    ")
    behind = event.arrival - event.time
    late = f"arrived {duration_text(behind)} later; " if behind.total_seconds() > 0 else ""
    rest = ", ".join(
        f"{name}={_value(value)}"
        for name, value in event.columns.items()
        if not _is_time_of(event, value)
    )
    wrapped(f"{late}{rest}", "    ", hanging="    ")


def _is_time_of(event: Event, value: Any) -> bool:
    """Whether a column is the row's time or arrival, which are told already."""
    if not isinstance(value, str):
        return False
    try:
        return datetime.fromisoformat(value) in (event.time, event.arrival)
    except (ValueError, TypeError):
        return False


def _show_additive(additive: Mapping[str, bool | None]) -> None:
    told = [name for name, adds_up in additive.items() if adds_up]
    if told:
        line("")
        wrapped(f"What the events contribute adds up to the value exactly: {', '.join(told)}.")


def _sentence(each: Comparison) -> str:
    if each.equal:
        return f"Equal: {each.what}."
    names = f" in {', '.join(each.differing)}" if each.differing else ""
    return f"{each.cause}: {each.what} differ{names}: {each.why}."


def _row(row: LoggedRow | None) -> str:
    if row is None:
        return "no row"
    created = f", logged {exact_time_text(row.created)}" if row.created else ""
    return f"as of {exact_time_text(row.as_of)}{created}"


def _difference(effect: Effect) -> str:
    if effect.difference is None:
        return f"would be {_value(effect.without)}"
    return f"{effect.difference:+}" if effect.difference else f"would be {_value(effect.without)}"


def _keys(entity: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in entity.items())


def _value(value: Any) -> str:
    """As evidence; a text in JSON's quotes, so that an empty one, and a line break, are seen."""
    if isinstance(value, str):
        text = printable(json.dumps(value[:_LONGEST], ensure_ascii=False))
        if len(value) <= _LONGEST and len(text) <= _LONGEST + 2:
            return text
        return f'{text[:_LONGEST]}" …'
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        shown = [_value(each) for each in value[:3]]
        more = [f"… {len(value)} elements"] if len(value) > 3 else []
        return f"[{', '.join(shown + more)}]"
    return evidence_text(value)
