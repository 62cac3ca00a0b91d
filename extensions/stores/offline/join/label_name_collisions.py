"""Labels' own columns beside the features': one name must not mean two of them."""

from collections import Counter
from collections.abc import Iterable, Sequence

from extensions.errors import InputError
from extensions.stores.offline.join.point_in_time import HIDDEN, ViewJoin


def check_names(
    asked: str,
    columns: Sequence[str],
    views: Sequence[ViewJoin],
    made: Iterable[str],
    *,
    full: bool,
) -> None:
    """Refuse labels with a column that occurs twice, or is called like a column of the answer.

    A former training set given as labels is such a case: its features are there already.

    Args:
        asked: What adds the columns, for the sentence: a service's name.
        columns: The labels' own.
        views: What is joined to them.
        made: What transforms make of it, by the names in the answer.
        full: Whether the answer has each view's age, and whether it had a row.

    Raises:
        InputError: it names the columns.
    """
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise InputError(
            f"The labels have more than one column {', '.join(twice)}: rename all but one.",
        )
    details = _details(views)
    taken = {f.output for view in views for f in view.features if not f.output.startswith(HIDDEN)}
    taken |= {*made, *(details if full else ())}
    if both := [name for name in columns if name in taken]:
        former = (
            " They look like a former training set: give the labels that it was made of."
            if len(both) > 1 and taken <= {*columns, *details}
            else ""
        )
        raise InputError(
            f"The labels have columns that are called like what {asked} adds to them "
            f"({', '.join(both)}): drop or rename them.{former}",
        )


def _details(views: Sequence[ViewJoin]) -> set[str]:
    return {
        name for view in views for name in (f"{view.label}__age_seconds", f"{view.label}__found")
    }
