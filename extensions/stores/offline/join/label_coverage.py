"""Labels that no log covers: the warning that Feast's own retrieval of training data gives."""

import warnings
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from extensions.asof.backfill_refusals import Hole, Holes, hole_sentence, holes_sql
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
from extensions.version_names import log_table_sql

_REFUSALS = "backfill_refusals"
_TABLES = ("backfills", "watermarks", "view_versions")


class CoverageWarning(UserWarning):
    """Labels were joined to values of a log that is not complete at their times."""


def read_coverages(session: ArrowSession) -> dict[str, Coverage]:
    """The coverage of every log of ours; empty in a database without our control tables."""
    if not session.has(*_TABLES):
        return {}
    rows = session.table(SPANS_SQL)
    return coverages(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def read_holes(session: ArrowSession, logs: Mapping[str, Sequence[str]]) -> dict[str, Holes]:
    """The holes that backfills left in logs.

    Args:
        session: An open session.
        logs: Names of logs, each with its key columns in the order of the view's join keys.

    Returns:
        By log; those without a hole, and tables that are no logs of ours, are left out.
    """
    if not session.has(_REFUSALS):
        return {}
    refused = session.table(
        f"SELECT DISTINCT view_name, version, {log_table_sql('r')} AS log FROM {_REFUSALS} AS r"
    ).to_pylist()
    return {
        one["log"]: Holes(
            Hole(tuple(row["entity"]), row["since"], row["until"])
            for row in session.table(
                holes_sql(one["view_name"], one["version"], one["log"], logs[one["log"]])
            ).to_pylist()
        )
        for one in refused
        if one["log"] in logs
    }


def warn_of_uncovered(
    views: Sequence[ViewJoin],
    covered: dict[str, Coverage],
    holes: Mapping[str, Holes],
    table: pa.Table,
    timestamp_column: str,
) -> None:
    """Warn of labels in a gap of a view's log or before it; ``table`` is the joined result.

    A view whose log was never filled by us, a user's own, is not known to have gaps.
    """
    if timestamp_column not in table.column_names:
        return
    times = table[timestamp_column].cast(UTC_MICROSECONDS, safe=False)
    for view in views:
        if left_out := holes.get(view.table):
            keys = [table[key.label_column] for key in view.keys]
            if labels := int(pc.sum(left_out.flags(keys, times)).as_py() or 0):
                said = hole_sentence(view.label, labels, table.num_rows, left_out)
                warnings.warn(said, CoverageWarning, stacklevel=2)
        known = covered.get(view.table)
        if known is None or view.eras:
            continue
        for flags, sentence in (
            (known.in_gap(times), gap_sentence),
            (known.before(times), before_sentence),
        ):
            if labels := int(pc.sum(flags).as_py() or 0):
                said = sentence(view.label, labels, table.num_rows, known)
                warnings.warn(said, CoverageWarning, stacklevel=2)
