"""Labels' own columns beside the features': one name must not mean two of them."""

from collections import Counter
from collections.abc import Iterable

from extensions.errors import SkewlessError
from extensions.stores.offline.retrieval_job import PointInTimeQuestion, SkewlessRetrievalJob


def check_names(service: str, job: SkewlessRetrievalJob, question: PointInTimeQuestion) -> None:
    """Refuse labels with a column that occurs twice, or is called like a column of the answer.

    A former training set given as labels is such a case: its features are there already.

    Raises:
        SkewlessError: exit code 2; it names the columns.
    """
    columns = question.labels.columns
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise SkewlessError(
            f"The labels have more than one column {', '.join(twice)}: rename all but one.",
            exit_code=2,
        )
    taken = set(_answered(job, question))
    if both := [name for name in columns if name in taken]:
        former = (
            " They look like a former training set: give the labels that it was made of."
            if len(both) > 1 and taken <= set(columns) | _details(question)
            else ""
        )
        raise SkewlessError(
            f"The labels have columns that are called like what {service} adds to them "
            f"({', '.join(both)}): drop or rename them.{former}",
            exit_code=2,
        )


def _answered(job: SkewlessRetrievalJob, question: PointInTimeQuestion) -> Iterable[str]:
    for view in question.views:
        yield from (feature.output for feature in view.features)
    yield from _details(question)
    for transform in job.on_demand_feature_views:
        yield from (feature.name for feature in transform.features)


def _details(question: PointInTimeQuestion) -> set[str]:
    return {
        name
        for view in question.views
        for name in (f"{view.label}__age_seconds", f"{view.label}__found")
    }
