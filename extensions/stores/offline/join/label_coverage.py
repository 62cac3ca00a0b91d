"""Labels that no log covers: the warning that Feast's own retrieval of training data gives."""

import warnings
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from extensions.asof.log_coverage import (
    SPANS_SQL,
    Coverage,
    before_sentence,
    coverages,
    gap_sentence,
)
from extensions.feature_types import UTC_MICROSECONDS
from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.join.point_in_time import ViewJoin

_TABLES = ("backfills", "watermarks", "view_versions")


class CoverageWarning(UserWarning):
    """Labels were joined to values of a log that is not complete at their times."""


def read_coverages(session: ArrowSession) -> dict[str, Coverage]:
    """The coverage of every log of ours; empty in a database without our control tables."""
    if not session.has(*_TABLES):
        return {}
    rows = session.table(SPANS_SQL)
    return coverages(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def warn_of_uncovered(
    views: Sequence[ViewJoin],
    covered: dict[str, Coverage],
    table: pa.Table,
    timestamp_column: str,
) -> None:
    """Warn of labels in a gap of a view's log or before it; ``table`` is the joined result.

    A view whose log was never filled by us, a user's own, is not known to have gaps.
    """
    if timestamp_column not in table.column_names:
        return
    moments = table[timestamp_column].cast(UTC_MICROSECONDS, safe=False)
    for view in views:
        known = covered.get(view.table)
        if known is None or view.eras:
            continue
        for flags, sentence in (
            (known.in_gap(moments), gap_sentence),
            (known.before(moments), before_sentence),
        ):
            if labels := int(pc.sum(flags).as_py() or 0):
                said = sentence(view.label, labels, table.num_rows, known)
                warnings.warn(said, CoverageWarning, stacklevel=2)
