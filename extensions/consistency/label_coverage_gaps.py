"""Gaps of the log: ranges of label times where training gets older values than history gives.

A backfill whose range ends before the view went live leaves one behind it. What a view was live
through is not looked at: there the log says what was served, an outage included.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from extensions.asof.log_coverage import Coverage, Span, coverage
from extensions.asof.log_cuts import cut_of
from extensions.consistency.comparison_context import Context, Found, Marks, instant, values_of
from extensions.consistency.consistency_report import LOG_GAP
from extensions.consistency.entity_sample import Key
from extensions.consistency.history_and_log_reads import NEVER, Question, ask, log_times
from extensions.consistency.log_comparison import is_wrong

# Entities that are looked at in the past; each at a random time, and before the end of each gap.
ENTITIES, GAPS = 200, 4


def compare_past(context: Context, keys: Sequence[Key], marks: Marks) -> Found:
    """Entities that training gives a value which history had replaced a whole budget before."""
    until = marks.live_from or marks.processed
    if until is None:
        return Found()
    until = min(until, marks.as_of)
    chosen = list(keys[:ENTITIES])
    times = log_times(
        context.arrow, context.computation, chosen, marks.safe, [marks.safe] * len(chosen)
    )
    first = [int(at) for at in times.oldest.tolist() if at != NEVER]
    if not first:
        return Found()
    since = instant(min(first)) + marks.budget
    cut = cut_of(context.conn, context.computation.log_table)
    if cut is not None:  # what lies before it is in the lake
        since = max(since, cut.before)
    if until <= since:
        return Found()
    gaps = _uncovered(context, marks, until)
    rng = np.random.default_rng()
    asked = []
    for key in chosen:
        label = since + (until - since) * float(rng.random())
        asked.append(Question(key, label - marks.budget, label, label))
        asked += [
            Question(key, gap.end - marks.budget, gap.end, gap.end)
            for gap in gaps
            if gap.end - marks.budget > max(gap.start, since - marks.budget)
        ]
    answers = ask(context.arrow, context.computation, asked)
    wrong = is_wrong(context, answers)
    found: dict[Key, Any] = {}
    for i in np.flatnonzero(wrong).tolist():
        one = asked[i]
        at = instant(answers.logged_at[i]) if answers.in_log[i] else None
        if one.key in found or (at is not None and at >= one.as_of):
            continue
        found[one.key] = context.difference(
            LOG_GAP,
            one.key,
            _range(gaps, one.until),
            as_of=one.as_of,
            recomputed=values_of(answers.recomputed, i),
            logged=values_of(answers.logged, i) if at is not None else None,
            logged_as_of=at,
            label=one.until,
        )
    return Found(list(found.values()))


def _uncovered(context: Context, marks: Marks, until: datetime) -> list[Span]:
    """Ranges before ``until`` that lie between backfills, or behind the last one."""
    covered = coverage(context.conn, context.computation).spans
    gaps = Coverage.of([*covered, Span(until, until)], marks.budget).gaps
    return [gap for gap in gaps if gap.end <= until][-GAPS:]


def _range(gaps: Sequence[Span], label: datetime) -> str:
    for gap in gaps:
        if gap.start < label <= gap.end:
            return (
                f"no backfill and no live value covers labels of {gap.start:%Y-%m-%d %H:%M:%S} to "
                f"{gap.end:%Y-%m-%d %H:%M:%S}"
            )
    return "no row of the log covers this label: training gets an older value"
