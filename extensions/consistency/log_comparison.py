"""The log against history: is its newest row what history gives as of the view's watermark?"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from extensions.asof.computation import Computation
from extensions.bitwise_equality import same
from extensions.consistency.comparison_context import Context, Found, Marks, instant, values_of
from extensions.consistency.consistency_report import (
    BUG,
    CLAIMED_ARRIVAL,
    LEFT_WINDOW,
    NOT_COMPUTED,
    OVERDUE,
    Difference,
)
from extensions.consistency.entity_sample import Key
from extensions.consistency.history_and_log_reads import Answers, Evidence, Question, ask, evidence


def compare_log(context: Context, keys: Sequence[Key], marks: Marks) -> Found:
    """Entities whose log lacks what history gives; defaults are recomputed like any value.

    An entity without a row in the log is served, and trained on, with the declared defaults: so
    these must be what history gives.
    """
    answers = ask(
        context.arrow,
        context.computation,
        [Question(key, marks.as_of, marks.as_of) for key in keys],
    )
    wrong = np.flatnonzero(is_wrong(context, answers))
    differences = explained(context, keys, marks, answers, wrong)
    if marks.due is not None:
        differences += _overdue(context, keys, marks, set(wrong.tolist()))
    return Found(differences)


def is_wrong(context: Context, answers: Answers) -> NDArray[np.bool_]:
    """Questions that the log, or the default where it has no row, answers unlike history."""
    there = answers.in_log
    logged = differing(answers.recomputed, answers.logged)
    default = differing(answers.recomputed, defaults(context.computation, answers.recomputed))
    return np.where(there, logged, default)


def explained(
    context: Context,
    keys: Sequence[Key],
    marks: Marks,
    answers: Answers,
    wrong: NDArray[np.int64],
) -> list[Difference]:
    """The differences at the places ``wrong``, each with its cause."""
    if not len(wrong):
        return []
    logged_at = [
        instant(answers.logged_at[i]) if answers.in_log[i] else None for i in wrong.tolist()
    ]
    chosen = [keys[i] for i in wrong.tolist()]
    asked = [(key, marks.as_of, at) for key, at in zip(chosen, logged_at, strict=True)]
    why = evidence(context.conn, context.computation, asked)
    true = _true_at_their_own_time(context, chosen, logged_at)
    found = []
    for place, key, at, seen, own in zip(wrong.tolist(), chosen, logged_at, why, true, strict=True):
        cause, reason = cause_of(context.computation, seen, logged=at is not None, own=own)
        found.append(
            context.difference(
                cause,
                key,
                reason,
                as_of=marks.as_of,
                recomputed=values_of(answers.recomputed, place),
                logged=values_of(answers.logged, place) if at is not None else None,
                logged_as_of=at,
            )
        )
    return found


def cause_of(
    computation: Computation, seen: Evidence, *, logged: bool, own: bool
) -> tuple[str, str | None]:
    """Why log and history are apart: the cause, and what there is to say beyond its meaning.

    ``logged``: the log has a row of the entity; ``own``: that is what history gives as of the
    row's own time.
    """
    if logged and not own:
        # The row was never what history now gives as of the row's own time.
        if seen.rewritten:
            return CLAIMED_ARRIVAL, None
        return BUG, "the log's row is not what history gives as of the row's own time"
    if logged and seen.left and not computation.decays:
        return LEFT_WINDOW, None
    if not logged and not seen.active:
        return BUG, "without any history the computation gives another value than the default"
    return NOT_COMPUTED, None


def _true_at_their_own_time(
    context: Context, keys: Sequence[Key], logged_at: Sequence[object]
) -> list[bool]:
    """Whether the log's rows are what history gives as of the rows' own times."""
    asked = [
        Question(key, at, at)  # type: ignore[arg-type]
        for key, at in zip(keys, logged_at, strict=True)
        if at is not None
    ]
    if not asked:
        return [True] * len(keys)
    answers = ask(context.arrow, context.computation, asked)
    equal = iter((~differing(answers.recomputed, answers.logged)).tolist())
    return [True if at is None else next(equal) for at in logged_at]


def _overdue(
    context: Context, keys: Sequence[Key], marks: Marks, known: set[int]
) -> list[Difference]:
    """What the log should hold by now, the freshness budget granted, and does not."""
    assert marks.due is not None
    assert marks.processed is not None
    answers = ask(
        context.arrow, context.computation, [Question(key, marks.due, marks.safe) for key in keys]
    )
    wrong = is_wrong(context, answers)
    found = [
        context.difference(
            OVERDUE,
            key,
            as_of=marks.due,
            recomputed=values_of(answers.recomputed, i),
            logged=values_of(answers.logged, i) if answers.in_log[i] else None,
            logged_as_of=instant(answers.logged_at[i]) if answers.in_log[i] else None,
        )
        for i, key in enumerate(keys)
        if wrong[i] and i not in known and answers.logged_at[i] < _micros(marks)
    ]
    if not found:
        behind = str(marks.safe - marks.processed).partition(".")[0]
        why = f"the watermark is {behind} behind, of {marks.budget} allowed"
        found.append(context.difference(OVERDUE, (), why, as_of=marks.due))
    return found


def _micros(marks: Marks) -> int:
    assert marks.due is not None
    return round(marks.due.timestamp() * 1e6)


def differing(one: pa.Table, other: pa.Table) -> NDArray[np.bool_]:
    """Rows of which some feature has other bits."""
    found = np.zeros(one.num_rows, np.bool_)
    for name in one.column_names:
        left, right = one[name], other[name]
        found |= ~same(left, right if right.type == left.type else right.cast(left.type))
    return found


def defaults(computation: Computation, like: pa.Table) -> pa.Table:
    """The declared defaults, in every row, typed as the columns of ``like``."""
    return pa.table(
        {
            feature.name: pa.array([feature.default] * like.num_rows, like[feature.name].type)
            for feature in computation.features
        }
    )
