"""The difference between two versions: both computed for the same entities at the same instants.

What a reviewer wants before promoting: how many values differ, by how much, whether the
distribution or a ranking by the feature changed, and which differences are the largest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

from extensions.asof import Computation, Spine, active, compute
from extensions.asof.computation import FeatureColumn
from extensions.asof.definition_fingerprint import Definition
from extensions.asof.safe_time import settled_now
from extensions.database import connect_arrow
from extensions.database.connection import identifiers
from extensions.engines.bulk import bulk
from extensions.engines.portability import verdicts
from extensions.engines.postgresql import fetched
from extensions.errors import ConflictError, InputError
from extensions.reports.numbers import MISSING, number, share
from extensions.statistics.effect_floors import DISTRIBUTION_FLOORS
from extensions.statistics.ranking_change import RankChange, rank_change
from extensions.stores.registry.version_store import find
from extensions.versions.column_distance import (
    ColumnSummary,
    Distribution,
    Kind,
    cumulative_shares,
    distance_of,
    distribution_change,
    numbers,
    summary_of,
)
from extensions.versions.engine_choice import LEAST_ROWS, EngineSettings

INSTANTS = 7
APART = timedelta(days=1)
LARGEST = 10


@dataclass(frozen=True)
class LargestDifference:
    """One entity at one instant, with both values."""

    keys: tuple[Any, ...]
    as_of: datetime
    first: Any
    second: Any
    distance: float


@dataclass(frozen=True)
class FeatureDiff:
    """One feature. ``quantiles``: of second minus first (for arrays, of their Euclidean distance;
    for texts of 0 and 1) at 0, 1, 25, 50, 75, 99 and 100 %. ``psi``: population stability index of
    the two distributions; ``divergence``: Jensen-Shannon, in bits, for texts. ``changes``: pairs
    of a change and the share of the differing values that changed by that or less. ``ranking``:
    how a ranking by the feature would change; None where it ranks nothing.
    """

    name: str
    kind: Kind
    differing: int
    share: float
    first: ColumnSummary
    second: ColumnSummary
    quantiles: tuple[float, ...]
    psi: float | None
    divergence: float | None
    ranking: RankChange | None
    largest: tuple[LargestDifference, ...]
    distribution: Distribution
    changes: tuple[tuple[float, float], ...]

    @property
    def effect(self) -> tuple[str, float] | None:
        """The statistic with a floor, and its size: ``psi``, or ``js`` (a distance) for texts."""
        if self.psi is not None:
            return "psi", self.psi
        if self.divergence is not None:
            return "js", float(np.sqrt(max(self.divergence, 0.0)))
        return None

    @property
    def verdict(self) -> str | None:
        """``ok``, ``warning`` or ``critical`` by the floors of drift checks; None: no statistic."""
        if self.effect is None:
            return None
        statistic, size = self.effect
        return DISTRIBUTION_FLOORS[statistic].judge(size)


@dataclass(frozen=True)
class Comparison:
    """Two versions of a view over ``pairs`` of an entity and an instant.

    ``sql``: both texts. ``descriptions`` and ``units`` of features, where they are declared.
    """

    view: str
    first: int
    second: int
    pairs: int
    instants: tuple[datetime, ...]
    join_keys: tuple[str, ...]
    features: tuple[FeatureDiff, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    seconds: tuple[float, float]
    engine: str = "postgresql"
    sql: tuple[str, str] = ("", "")
    descriptions: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """All of it, for programs."""
        return asdict(self)

    def table(self) -> list[dict[str, Any]]:
        """One line per feature, for a terminal."""
        rows = []
        for feature in self.features:
            low, _, _, middle, _, _, high = feature.quantiles
            effect = feature.psi if feature.psi is not None else feature.divergence
            rows.append(
                {
                    "feature": feature.name,
                    "compared": self.pairs,
                    "differ": feature.differing,
                    "share": share(feature.share),
                    f"mean v{self.first}": number(feature.first.mean),
                    f"mean v{self.second}": number(feature.second.mean),
                    "change min": number(low),
                    "median": number(middle),
                    "max": number(high),
                    "drift": number(effect, 3),
                }
            )
        for version, names in ((self.first, self.only_first), (self.second, self.only_second)):
            blank = dict.fromkeys(rows[0] if rows else ["feature"], MISSING)
            rows += [{**blank, "feature": f"{name} (only in v{version})"} for name in names]
        return rows

    def largest_table(self, feature: str | None = None) -> list[dict[str, Any]]:
        """The largest differences of all features, or of one."""
        return [
            {
                "feature": diff.name,
                **dict(zip(self.join_keys, difference.keys, strict=True)),
                "as of": difference.as_of,
                f"v{self.first}": _short(difference.first),
                f"v{self.second}": _short(difference.second),
            }
            for diff in self.features
            if feature in (None, diff.name)
            for difference in diff.largest
        ]


def compare(
    conn: psycopg.Connection,
    url: str,
    view: str,
    first: int,
    second: int,
    *,
    size: int = 5_000,
    descriptions: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    settings: EngineSettings | None = None,
) -> Comparison:
    """Compute both versions for the same ``size`` pairs of an active entity and a daily instant.

    ``settings``: of the engine; ``auto`` takes DuckDB for many pairs, where both texts are
    portable. PostgreSQL without.

    Raises:
        InputError: a version is unknown or a transform, or no entity was active.
    """
    published = [find(conn, view, version) for version in (first, second)]
    if "transform" in (version.kind for version in published):
        raise InputError(
            f"{view} is a transform, which has no values of its own: compare what services serve "
            "with it."
        )
    left, right = (version.definition.computation() for version in published)
    settled = settled_now(conn, {*left.tables, *right.tables})
    instants = tuple(settled - i * APART for i in range(INSTANTS))
    spine = sampled_spine(_longer_horizon(left, right), instants, size)
    chosen = _engine(conn, [one.definition for one in published], size, settings)
    with connect_arrow(url) as arrow:
        if chosen == "duckdb":
            assert settings is not None
            asked = fetched(arrow, spine.query)
            results = [_computed_at_large(url, each, asked, settings) for each in (left, right)]
        else:
            results = [_computed(arrow, computation, spine) for computation in (left, right)]
    (values, took), (other_values, other_took) = results
    if not values.num_rows:
        raise InputError(f"No entity of {view} was active in the last week: nothing to compare.")
    columns = {column.name: column for column in right.features}
    shared = [column for column in left.features if column.name in columns]
    pairs = _Pairs([values[key].to_pylist() for key in left.join_keys], values["as_of"].to_pylist())
    return Comparison(
        view=view,
        first=first,
        second=second,
        pairs=values.num_rows,
        instants=instants,
        join_keys=left.join_keys,
        features=tuple(
            _feature_diff((column, columns[column.name]), values, other_values, pairs)
            for column in shared
        ),
        only_first=tuple(c.name for c in left.features if c.name not in columns),
        only_second=tuple(sorted(set(columns) - {column.name for column in shared})),
        seconds=(took, other_took),
        engine=chosen,
        sql=(left.sql, right.sql),
        descriptions=descriptions or {},
        units=units or {},
    )


def sampled_spine(computation: Computation, instants: tuple[datetime, ...], size: int) -> Spine:
    """``size`` pairs of an entity and an instant at which it was active; the same every time."""
    each = sql.SQL(" UNION ALL ").join(active(computation, at).query for at in instants)
    keys = identifiers(computation.join_keys, "q")
    return Spine(
        sql.SQL(
            "SELECT {keys}, q.as_of FROM ({each}) AS q "
            "ORDER BY hashtextextended(ROW({keys}, q.as_of)::text, 7), {keys} LIMIT {size}"
        ).format(keys=keys, each=each, size=sql.Literal(size))
    )


def _longer_horizon(left: Computation, right: Computation) -> Computation:
    """The one whose entities are active for longer."""
    if left.horizon is None or right.horizon is None:
        return left if left.horizon is None else right
    return left if left.horizon >= right.horizon else right


def _engine(
    conn: psycopg.Connection,
    definitions: Sequence[Definition],
    size: int,
    settings: EngineSettings | None,
) -> str:
    """The engine for so many pairs.

    Raises:
        ConflictError: DuckDB was asked for, and a text is not portable.
    """
    if settings is None or settings.engine == "postgresql":
        return "postgresql"
    if settings.engine == "auto" and size < LEAST_ROWS:
        return "postgresql"
    found = verdicts(conn, definitions)
    stays = [each for each in definitions if found[each.fingerprint].outcome == "not portable"]
    if settings.engine == "duckdb":
        for each in stays:
            raise ConflictError(
                f"{each.name} stays in PostgreSQL, {found[each.fingerprint].sentence()}. Run this "
                "with `--engine postgresql`."
            )
        return "duckdb"
    portable = all(found[each.fingerprint].outcome == "portable" for each in definitions)
    return "duckdb" if portable else "postgresql"


def _computed_at_large(
    url: str, computation: Computation, spine: pa.Table, settings: EngineSettings
) -> tuple[pa.Table, float]:
    began = perf_counter()
    bounds = pc.min_max(spine["as_of"]).as_py()
    now = datetime.now(UTC)
    first, last = bounds["min"] or now, bounds["max"] or now
    with bulk(url, computation, first, last, settings.limits) as asked:
        table = asked.ask(spine)
    order = [(name, "ascending") for name in (*computation.join_keys, "as_of")]
    return table.sort_by(order).combine_chunks(), round(perf_counter() - began, 3)


def _computed(arrow: Any, computation: Computation, spine: Spine) -> tuple[pa.Table, float]:
    began = datetime.now().astimezone()
    table = compute(arrow, computation, spine)
    took = (datetime.now().astimezone() - began).total_seconds()
    order = [(name, "ascending") for name in (*computation.join_keys, "as_of")]
    return table.sort_by(order).combine_chunks(), round(took, 3)


@dataclass(frozen=True)
class _Pairs:
    """What each row is of: its keys, by column, and its instant."""

    keys: list[list[Any]]
    as_of: list[datetime]


def _feature_diff(
    columns: tuple[FeatureColumn, FeatureColumn], values: pa.Table, others: pa.Table, pairs: _Pairs
) -> FeatureDiff:
    name = columns[0].name
    first, second = values[name], others[name]
    distance, change, kind = distance_of(first, second)
    differ = distance > 0
    order = np.argsort(-distance, kind="stable")[:LARGEST]
    left, right = first.to_pylist(), second.to_pylist()
    distribution = distribution_change(first, second, kind)
    ranking = None
    if kind == "number":
        ranking = rank_change(numbers(first), numbers(second), pairs.as_of)
    # A value that appears or vanishes has no size of change.
    sized = differ & np.isfinite(distance)
    return FeatureDiff(
        name=name,
        kind=kind,
        differing=int(differ.sum()),
        share=float(differ.mean()),
        first=summary_of(first, kind, columns[0].default),
        second=summary_of(second, kind, columns[1].default),
        quantiles=_quantiles(change),
        psi=distribution.psi,
        divergence=distribution.divergence,
        ranking=ranking,
        largest=tuple(
            LargestDifference(
                tuple(key[i] for key in pairs.keys), pairs.as_of[i], left[i], right[i],
                float(distance[i]),
            )
            for i in order.tolist()
            if differ[i]
        ),
        distribution=distribution.distribution,
        changes=() if kind == "text" else cumulative_shares(change[sized]),
    )  # fmt: skip


def _quantiles(change: NDArray[np.float64]) -> tuple[float, ...]:
    levels = np.quantile(change, [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0])
    return tuple(float(level) for level in levels)


def _short(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(_short(element) for element in value[:3])
        return f"[{shown}, …]" if value[3:] else f"[{shown}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
