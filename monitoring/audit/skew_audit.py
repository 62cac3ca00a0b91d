"""The skew audit: served values compared with the training join and with a recomputation.

The expected number of differences is zero, and each one has a name:

``lag``      a later value had been logged when the request was served, but was not online yet
``late``     the training join finds a row that was not there when the request was served:
             published afterwards, or dated back (a backfill, a push of old rows)
``version``  within a minute of a promotion the server still answered with the version before
``overdue``  as ``lag``, but for longer than the view's freshness budget; or a default that was
             served although history had had another value for that long
``bug``      anything else, and whatever the recomputation does not give again bit for bit,
             unless history that became visible later claims to have been there (``late``)

A text that was judged portable may be computed by DuckDB; a sample of questions, another one each
day, is put to both engines (`engine_comparison`), and a difference is a finding.

Served requests name the entities that somebody asked for. So a random sample of the entities of
history, log and Redis is compared as well, as of now (`extensions.consistency`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from extensions import exit_codes
from extensions.asof import Computation
from extensions.asof.definition_fingerprint import Definition
from extensions.consistency import ViewComparison, compare_views, consistency_report
from extensions.database import connect, connect_arrow
from extensions.database.connection import table_exists
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.offline.writes import serving_log_table
from extensions.stores.offline.writes.serving_log_table import TABLE, column_name
from extensions.stores.registry.version_store import has_versions, published
from extensions.version_names import version_name
from extensions.versions.engine_choice import EngineSettings
from monitoring.audit import reference_values
from monitoring.audit.difference_classification import (
    BUG,
    CLASSES,
    EQUAL,
    VERSION,
    Compared,
    classify,
)
from monitoring.audit.engine_comparison import EngineComparison, compare_engines
from monitoring.audit.recomputation import Recomputation
from monitoring.audit.reference_values import Slice
from monitoring.baseline import Feature, features_of

REQUESTS_PER_SLICE = 2_000
WORST = 5
# How long after a promotion a server may still answer with the version before.
FOLLOWING = timedelta(seconds=60)


@dataclass
class FeatureReport:
    """What was compared of one feature. ``worst``: cases with all that a replay needs."""

    feature: str
    compared: int = 0
    equal: int = 0
    lag: int = 0
    late: int = 0
    overdue: int = 0
    version: int = 0
    bug: int = 0
    longest_lag_seconds: float = 0.0
    worst: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Compared) -> None:
        """Count one slice's values."""
        self.compared += len(other.classes)
        for name, number in zip(CLASSES, range(len(CLASSES)), strict=True):
            count = int((other.classes == number).sum())
            setattr(self, name, getattr(self, name) + count)
        lags = other.behind[other.classes == CLASSES.index("lag")]
        if len(lags):
            self.longest_lag_seconds = max(self.longest_lag_seconds, float(lags.max()))
        self.worst += other.cases(WORST)
        # Bugs first; of the others the longest behind.
        self.worst.sort(
            key=lambda entry: (-CLASSES.index(entry["class"]), -entry["behind_seconds"])
        )
        del self.worst[WORST:]


@dataclass(frozen=True)
class AuditReport:
    """All that an audit found; ``left_out``: what it could not compare, and why.

    ``views``: history, log and Redis compared for a sample of entities, as of now. ``engines``:
    what both engines answered to a sample of questions.
    """

    since: datetime
    until: datetime
    requests: int
    features: tuple[FeatureReport, ...]
    left_out: tuple[str, ...]
    views: tuple[ViewComparison, ...] = ()
    engines: tuple[EngineComparison, ...] = ()

    @property
    def differing(self) -> tuple[EngineComparison, ...]:
        """Texts that were judged portable, and whose answers differ between the engines."""
        return tuple(each for each in self.engines if each.differs)

    @property
    def compared(self) -> int:
        """Served values that were compared."""
        return sum(feature.compared for feature in self.features)

    @property
    def equal(self) -> int:
        """Served values without any difference."""
        return sum(feature.equal for feature in self.features)

    @property
    def bugs(self) -> int:
        """Differences without a known cause."""
        return sum(feature.bug for feature in self.features)

    @property
    def overdue(self) -> int:
        """Values, and sampled entities, that are behind by more than the freshness budget."""
        served = sum(feature.overdue for feature in self.features)
        return served + sum(view.counts.get(consistency_report.OVERDUE, 0) for view in self.views)

    @property
    def apart(self) -> int:
        """Sampled entities of which history, log and Redis say different things."""
        return sum(
            view.findings - view.counts.get(consistency_report.OVERDUE, 0) for view in self.views
        )

    @property
    def entities(self) -> int:
        """Entities that were sampled, over all views."""
        return sum(view.entities for view in self.views)

    @property
    def blind(self) -> bool:
        """Whether something that should have been compared could not be."""
        return any(view.blind for view in self.views) or not (self.compared or self.entities)

    @property
    def exit_code(self) -> int:
        """Of `extensions.exit_codes`: WRONG, else ATTENTION (overdue), else NOT_CHECKED (blind)."""
        if self.bugs or self.apart or self.differing:
            return exit_codes.WRONG
        if self.overdue:
            return exit_codes.ATTENTION
        return exit_codes.NOT_CHECKED if self.blind else exit_codes.OK


def audit(
    store: FeatureStore,
    computations: Mapping[str, Computation],
    since: datetime,
    until: datetime,
    *,
    sample: int | None = None,
    services: Sequence[str] | None = None,
    entities: int = 500,
    definitions: Mapping[str, Definition] | None = None,
    questions: int = 0,
    settings: EngineSettings | None = None,
) -> AuditReport:
    """Compare the values served in ``[since, until)``; ``sample`` requests of each service.

    ``computations`` by ``view.vN``: what values are recomputed with. The sample are those with
    the lowest hashes, so that a larger one holds every smaller one. ``entities``: how many of
    each view are compared as of now; 0 leaves that out. ``definitions``, by ``view.vN``: whose
    texts get so many ``questions`` in both engines. ``settings``: of the engine that recomputes
    what was served; PostgreSQL if left.

    Raises:
        SkewlessError: the database failed.
    """
    url = url_of(store.config)
    reports: dict[str, FeatureReport] = {}
    left_out: dict[str, None] = {}
    requests = 0
    with (
        connect(url, autocommit=True, name="skewless audit") as conn,
        connect_arrow(url) as arrow,
        Recomputation(conn, arrow, definitions or {}, settings, since, until) as again,
    ):
        for service in services or _logged_services(conn, since, until):
            for part in _slices(conn, store, service, since, until, sample, left_out):
                requests += len(part.requests)
                work = _Work(store, conn, again, computations, part)
                for label, compared in work.run(left_out):
                    reports.setdefault(label, FeatureReport(label)).add(compared)
    if not requests:
        left_out["No request was logged in that time (`skewless serve --log 1`)."] = None
    result = tuple(reports[label] for label in sorted(reports))
    views: Sequence[ViewComparison] = ()
    if entities:
        views = compare_views(store, computations.values(), entities=entities)
        left_out |= dict.fromkeys(said for view in views for said in view.left_out)
    else:
        left_out["No entities were sampled."] = None
    engines: tuple[EngineComparison, ...] = ()
    if questions and definitions:
        with connect(url, autocommit=True, name="skewless audit") as conn:
            engines = compare_engines(conn, definitions.values(), questions, until)
        left_out |= dict.fromkeys(each.left_out for each in engines if each.left_out)
    return AuditReport(since, until, requests, result, tuple(left_out), tuple(views), engines)


def record(conn: psycopg.Connection, found: AuditReport) -> None:
    """Store an audit's report."""
    content = [_plain(asdict(feature)) for feature in found.features]
    conn.execute(
        "INSERT INTO audit_runs (since, until, compared, equal, bugs, report) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        [
            found.since,
            found.until,
            found.compared,
            found.equal,
            found.bugs + found.apart + len(found.differing),
            Jsonb(
                {
                    "features": content,
                    "left_out": list(found.left_out),
                    "views": [_plain(asdict(view)) for view in found.views],
                    "engines": [asdict(each) for each in found.engines],
                }
            ),
        ],
    )


class _Move(NamedTuple):
    """A view's pointer moved ``at`` a moment and stayed there ``until`` another one."""

    at: datetime
    version: int
    until: datetime | None


@dataclass(frozen=True)
class _Work:
    """One slice's comparison."""

    store: FeatureStore
    conn: psycopg.Connection
    again: Recomputation
    computations: Mapping[str, Computation]
    part: Slice

    def run(self, left_out: dict[str, None]) -> Iterator[tuple[str, Compared]]:
        """The classes of every feature's values."""
        part = self.part
        answer = reference_values.joined(self.store, part, part.versions, transforms=True)
        by_view: dict[str, NDArray[np.int8]] = {}
        for view, version in part.versions.items():
            own = [feature for feature in part.features if feature.view == view]
            computation = self.computations.get(version_name(view, version))
            again = None
            if computation is None:
                left_out[f"{view} v{version} has no computation: it was not recomputed."] = None
            else:
                again = self.again.of(part, computation)
            compared = classify(self.conn, answer, again, view, version, own, computation)
            for label, pointed in self._pointed(view, version, own).items():
                compared[label] = pointed.over(compared[label])
            worst = np.zeros(answer.num_rows, np.int8)
            for label, one in compared.items():
                worst[one.rows] = np.maximum(worst[one.rows], one.classes)
                yield label, one
            by_view[view] = _spread(answer, worst)
        for made in part.features:
            if not made.version:
                sources = _sources(self.store, made.view)
                inputs = [by_view[view] for view in sources if view in by_view]
                yield made.label, Compared.of_transform(answer, made, inputs)

    def _pointed(self, view: str, version: int, own: Sequence[Feature]) -> dict[str, Compared]:
        """Rows that were served just after the pointer moved on: against where it pointed."""
        result: dict[str, Compared] = {}
        retired = _retired(self.conn)
        for move in _moves(self.conn, view):
            if move.version == version or (view, move.version) in retired:
                continue
            start = max(move.at, self.part.start)
            end = min(move.at + FOLLOWING, move.until or self.part.end, self.part.end)
            if start >= end:
                continue
            part = replace(self.part, start=start, end=end, features=tuple(own), request=())
            other = {**self.part.versions, view: move.version}
            answer = reference_values.joined(self.store, part, other, transforms=False)
            for feature in own:
                compared = Compared.of_pointer(answer, feature, move.version)
                held = result.get(feature.label)
                result[feature.label] = compared if held is None else held.and_also(compared)
        return result


def _slices(
    conn: psycopg.Connection,
    store: FeatureStore,
    service: str,
    since: datetime,
    until: datetime,
    sample: int | None,
    left_out: dict[str, None],
) -> Iterator[Slice]:
    """Cut a service's requests by the versions they were answered with, and by time."""
    present = serving_log_table.present_columns(conn)
    features, columns = [], {}
    declared = features_of(store, service)
    for one in declared:
        column = serving_log_table.resolve(present, column_name(one.view, one.name), one.type)
        if column is None:
            left_out[f"{one.label} was never logged."] = None
            continue
        features.append(one)
        columns[one.label] = column
    if len({feature.name for feature in features}) < len(features):
        left_out[f"{service} has two features of one name: it was not audited."] = None
        return
    views = list(dict.fromkeys(feature.view for feature in features if feature.version))
    if not views:
        return
    below = _bound(conn, service, since, until, sample)
    versions = [column_name(view, "version") for view in views]
    rows = conn.execute(
        sql.SQL(
            "SELECT ARRAY[{versions}]::integer[], "
            "array_agg(served_at ORDER BY served_at, request_id), "
            "array_agg(request_id ORDER BY served_at, request_id) FROM {table} "
            "WHERE service = %s AND row_number = 0 AND source = 'http' AND served_at >= %s "
            "AND served_at < %s AND request_id <= %s GROUP BY 1"
        ).format(
            table=sql.Identifier(TABLE),
            versions=sql.SQL(", ").join(map(sql.Identifier, versions)),
        ),
        [service, since, until, below],
    ).fetchall()
    keys = tuple(dict.fromkeys(key for feature in features for key in feature.keys))
    request = tuple(
        name.removeprefix("request__")
        for name in present
        if name.startswith("request__") and any(not feature.version for feature in features)
    )
    made = {feature.view: _moves(conn, feature.view) for feature in features if not feature.version}
    retired = _retired(conn)
    for numbers, moments, requests in rows:
        answered = {view: n for view, n in zip(views, numbers, strict=True) if n is not None}
        held = {view: n for view, n in answered.items() if (view, n) not in retired}
        lost = {view: n for view, n in answered.items() if view not in held}
        comparable = list(_without(store, features, lost, left_out))
        if not held:
            continue
        for start, end, place in _cuts(moments, until):
            own = tuple(_own(comparable, held, made, start, left_out))
            ids = tuple(requests[place])
            yield Slice(service, start, end, ids, held, own, columns, keys, request)


def _without(
    store: FeatureStore,
    features: Sequence[Feature],
    lost: Mapping[str, int],
    left_out: dict[str, None],
) -> Iterator[Feature]:
    """The features but for those of retired versions, and what transforms made of them."""
    for feature in features:
        read = [feature.view] if feature.version else _sources(store, feature.view)
        gone = [f"{view} v{lost[view]}" for view in read if view in lost]
        if not gone:
            yield feature
            continue
        what = f"{gone[0]} served" if feature.version else f"{feature.view} made of {gone[0]}"
        left_out[f"What {what} was not compared: it was retired."] = None


def _retired(conn: psycopg.Connection) -> set[tuple[str, int]]:
    """View versions that are gone: they can neither be joined nor computed."""
    if not has_versions(conn):
        return set()
    return {(one.view_name, one.version) for one in published(conn) if one.state == "retired"}


def _own(
    features: Sequence[Feature],
    held: Mapping[str, int],
    moves: Mapping[str, Sequence[_Move]],
    start: datetime,
    left_out: dict[str, None],
) -> Iterator[Feature]:
    """What can be compared of requests from ``start`` on that were answered with ``held``."""
    for feature in features:
        if feature.version:
            if feature.view in held:
                yield feature
        elif all(move.at + FOLLOWING <= start for move in moves[feature.view]):
            yield feature
        else:  # a row does not say which version of a transform made it
            left_out[f"{feature.label} was compared from a minute after its last move on."] = None


def _cuts(
    moments: Sequence[datetime], until: datetime
) -> Iterator[tuple[datetime, datetime, slice]]:
    """Spans of some thousand requests, and their places; requests of one moment stay together."""
    at = 0
    while at < len(moments):
        to = min(at + REQUESTS_PER_SLICE, len(moments))
        while to < len(moments) and moments[to] == moments[to - 1]:
            to += 1
        yield moments[at], moments[to] if to < len(moments) else until, slice(at, to)
        at = to


def _bound(
    conn: psycopg.Connection, service: str, since: datetime, until: datetime, sample: int | None
) -> int:
    """The largest request id of the sample."""
    if sample is None:
        return (1 << 63) - 1
    row = conn.execute(
        sql.SQL(
            "SELECT max(request_id) FROM (SELECT request_id FROM {} WHERE service = %s "
            "AND row_number = 0 AND served_at >= %s AND served_at < %s "
            "ORDER BY request_id LIMIT %s) AS lowest"
        ).format(sql.Identifier(TABLE)),
        [service, since, until, sample],
    ).fetchone()
    return int(row[0]) if row and row[0] is not None else -(1 << 63)


def _logged_services(conn: psycopg.Connection, since: datetime, until: datetime) -> list[str]:
    rows = conn.execute(
        sql.SQL(
            "SELECT DISTINCT service FROM {} WHERE served_at >= %s AND served_at < %s "
            "AND row_number = 0 ORDER BY service"
        ).format(sql.Identifier(TABLE)),
        [since, until],
    ).fetchall()
    return [service for (service,) in rows]


def _moves(conn: psycopg.Connection, view: str) -> list[_Move]:
    """All moves of a view's pointer, the first version's apart."""
    if not table_exists(conn, "promotions"):
        return []
    rows = conn.execute(
        "SELECT moved_at, to_version, lead(moved_at) OVER (ORDER BY moved_at) FROM promotions "
        "WHERE view_name = %s AND kind <> 'first' ORDER BY moved_at",
        [view],
    ).fetchall()
    return [_Move(*row) for row in rows]


def _sources(store: FeatureStore, transform: str) -> list[str]:
    view = store.registry.get_on_demand_feature_view(transform, store.project)
    return [one.name for one in view.source_feature_view_projections.values()]


def _spread(answer: pa.Table, classes: NDArray[np.int8]) -> NDArray[np.int8]:
    """A view that an answer carries once counts for all of its rows."""
    requests = answer["request_id"].to_numpy()
    _, inverse = np.unique(requests, return_inverse=True)
    rows = np.bincount(inverse)
    worst = np.zeros(len(rows), np.int8)
    np.maximum.at(worst, inverse, classes)
    once = answer["row_number"].to_numpy() == 0
    single = np.zeros(len(rows), np.bool_)
    single[inverse[once & (classes > 0)]] = True
    return np.where(single[inverse], worst[inverse], classes)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


__all__ = ["BUG", "EQUAL", "VERSION", "AuditReport", "FeatureReport", "audit", "record"]
