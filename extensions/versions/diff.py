"""`skewless diff`: two versions computed for the same entities at the same timestamps, compared.

Reports how many values differ and by how much, whether the distribution shifted, and the largest
differences.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from extensions.asof import Computation, Spine, active, compute
from extensions.asof.safe_time import settled_now
from extensions.database import connect_arrow
from extensions.database.connection import identifiers
from extensions.errors import InputError
from extensions.stores.registry.version_store import find
from extensions.versions.column_distance import Shape, distance_of, histogram, shape_of

SAMPLED_DAYS = 7
INTERVAL = timedelta(days=1)
LARGEST = 10


@dataclass(frozen=True)
class Case:
    """One entity at one timestamp, with both versions' values."""

    keys: tuple[Any, ...]
    as_of: datetime
    first: Any
    second: Any
    distance: float


@dataclass(frozen=True)
class FeatureDiff:
    """One feature. ``quantiles``: of second minus first (for arrays, of their Euclidean distance;
    for texts of 0 and 1) at 0, 1, 25, 50, 75, 99 and 100 %. ``psi``: population stability index of
    the two distributions; ``divergence``: Jensen-Shannon, in bits, for texts.
    """

    name: str
    kind: str
    differing: int
    share: float
    first: Shape
    second: Shape
    quantiles: tuple[float, ...]
    psi: float | None
    divergence: float | None
    largest: tuple[Case, ...]
    bars: tuple[tuple[str, int, int], ...]
    change_bars: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Comparison:
    """Two versions of a view over ``questions`` pairs of an entity and a timestamp."""

    view: str
    first: int
    second: int
    questions: int
    moments: tuple[datetime, ...]
    join_keys: tuple[str, ...]
    features: tuple[FeatureDiff, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    seconds: tuple[float, float]

    def summary(self) -> dict[str, Any]:
        """All of it, for programs."""
        return asdict(self)

    def table(self) -> list[dict[str, Any]]:
        """One line per feature, for a terminal."""
        rows = []
        for one in self.features:
            low, _, _, middle, _, _, high = one.quantiles
            rows.append(
                {
                    "feature": one.name,
                    "compared": self.questions,
                    "differ": one.differing,
                    "share": f"{one.share:.1%}",
                    f"mean v{self.first}": _number(one.first.mean),
                    f"mean v{self.second}": _number(one.second.mean),
                    "change min": _number(low),
                    "median": _number(middle),
                    "max": _number(high),
                    "drift": _number(one.psi if one.psi is not None else one.divergence),
                }
            )
        for version, names in ((self.first, self.only_first), (self.second, self.only_second)):
            rows += [{**dict.fromkeys(rows[0] if rows else ["feature"], "–"),
                      "feature": f"{name} (only in v{version})"} for name in names]  # fmt: skip
        return rows

    def largest_table(self) -> list[dict[str, Any]]:
        """The largest differences of all features."""
        return [
            {
                "feature": one.name,
                **dict(zip(self.join_keys, case.keys, strict=True)),
                "as of": case.as_of,
                f"v{self.first}": _short(case.first),
                f"v{self.second}": _short(case.second),
            }
            for one in self.features
            for case in one.largest
        ]


def compare(
    conn: psycopg.Connection, url: str, view: str, first: int, second: int, *, size: int = 5_000
) -> Comparison:
    """Compute both versions over one sampled spine: active entities at daily timestamps of a week.

    ``size``: the most rows of the spine.

    Raises:
        InputError: a version is unknown or a transform, or no entity was active.
    """
    one, other = (find(conn, view, version) for version in (first, second))
    if "transform" in (one.kind, other.kind):
        raise InputError(
            f"{view} is a transform, which has no values of its own: compare what services serve "
            "with it."
        )
    left, right = one.definition.computation(), other.definition.computation()
    moments = tuple(settled_now(conn) - i * INTERVAL for i in range(SAMPLED_DAYS))
    spine = questions(_wider(left, right), moments, size)
    with connect_arrow(url) as arrow:
        answers = [_answers(arrow, computation, spine) for computation in (left, right)]
    (mine, took), (theirs, took_too) = answers
    if not mine.num_rows:
        raise InputError(f"No entity of {view} was active in the last week: nothing to compare.")
    names = [feature.name for feature in left.features]
    there = {feature.name for feature in right.features}
    keys = [mine[key].to_pylist() for key in left.join_keys]
    at = mine["as_of"].to_pylist()
    return Comparison(
        view=view,
        first=first,
        second=second,
        questions=mine.num_rows,
        moments=moments,
        join_keys=left.join_keys,
        features=tuple(
            _feature(name, mine[name], theirs[name], keys, at) for name in names if name in there
        ),
        only_first=tuple(name for name in names if name not in there),
        only_second=tuple(sorted(there - set(names))),
        seconds=(took, took_too),
    )


def questions(computation: Computation, moments: tuple[datetime, ...], size: int) -> Spine:
    """A deterministic sample of ``size`` pairs (entity, timestamp at which it was active)."""
    each = sql.SQL(" UNION ALL ").join(active(computation, at).query for at in moments)
    keys = identifiers(computation.join_keys, "q")
    return Spine(
        sql.SQL(
            "SELECT {keys}, q.as_of FROM ({each}) AS q "
            "ORDER BY hashtextextended(ROW({keys}, q.as_of)::text, 7), {keys} LIMIT {size}"
        ).format(keys=keys, each=each, size=sql.Literal(size))
    )


def _wider(left: Computation, right: Computation) -> Computation:
    """The version with the longer horizon, whose active entities include the other's."""
    if left.horizon is None or right.horizon is None:
        return left if left.horizon is None else right
    return left if left.horizon >= right.horizon else right


def _answers(arrow: Any, computation: Computation, spine: Spine) -> tuple[pa.Table, float]:
    began = datetime.now().astimezone()
    table = compute(arrow, computation, spine)
    took = (datetime.now().astimezone() - began).total_seconds()
    order = [(name, "ascending") for name in (*computation.join_keys, "as_of")]
    return table.sort_by(order).combine_chunks(), round(took, 3)


def _feature(
    name: str,
    mine: pa.ChunkedArray,
    theirs: pa.ChunkedArray,
    keys: list[list[Any]],
    at: list[datetime],
) -> FeatureDiff:
    distance, change, kind = distance_of(mine, theirs)
    differ = distance > 0
    order = np.argsort(-distance, kind="stable")[:LARGEST]
    left, right = mine.to_pylist(), theirs.to_pylist()
    bars, psi, divergence = histogram(mine, theirs, kind)
    return FeatureDiff(
        name=name,
        kind=kind,
        differing=int(differ.sum()),
        share=float(differ.mean()),
        first=shape_of(mine, kind),
        second=shape_of(theirs, kind),
        quantiles=_quantiles(change),
        psi=psi,
        divergence=divergence,
        largest=tuple(
            Case(tuple(key[i] for key in keys), at[i], left[i], right[i], float(distance[i]))
            for i in order.tolist()
            if differ[i]
        ),
        bars=bars,
        change_bars=_change_bars(change[differ]),
    )


def _quantiles(change: NDArray[np.float64]) -> tuple[float, ...]:
    found = np.quantile(change, [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0])
    return tuple(float(one) for one in found)


def _change_bars(change: NDArray[np.float64]) -> tuple[tuple[str, int, int], ...]:
    """Histogram of the changes of the values that differ."""
    if not len(change):
        return ()
    counts, edges = np.histogram(change, bins=min(20, max(1, len(np.unique(change)))))
    return tuple(
        (f"{low:.3g} to {high:.3g}", int(n), 0)
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_short(one) for one in value[:3]) + (", …]" if value[3:] else "]")
    return f"{value:.6g}" if isinstance(value, float) else str(value)
