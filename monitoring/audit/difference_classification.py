"""Classification of differences: a served value is equal, lagging, late, … or a bug."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from extensions.asof import Computation
from extensions.asof.history_changes import HistoryChange, changes_of
from extensions.asof.log_cuts import cut_of
from extensions.asof.watermarks import read_watermark
from extensions.bitwise_equality import same
from extensions.consistency.history_and_log_reads import evidence as history_evidence
from extensions.database.connection import identifiers
from extensions.database.identifier_limits import BACKFILLED
from monitoring.audit.reference_values import ROW, SEARCH, SERVED, Evidence, evidence
from monitoring.baseline import Feature

# In order of gravity: what one row's features say together is the gravest.
CLASSES = ("equal", "version", "lag", "late", "overdue", "bug")
EQUAL, VERSION, LAG, LATE, OVERDUE, BUG = range(len(CLASSES))

REASONS = {
    "default": "the default that was served is not the declared one",
    "recomputed": "recomputed as of its own moment it is another value",
    "log": "the log holds another value for that moment",
    "unlogged": "it was served and stands in no log",
    "transform": "the same inputs gave another output",
    "input": "an input differs",
    "lag": "a later value had been logged and was not online yet",
    "late": "the join's row was published after the request, or dated back",
    "claimed": "history that became visible after the value was computed claims an earlier arrival",
    "overdue": "a later value had been logged for longer than the freshness budget",
    "uncomputed": "history had another value than the default a whole freshness budget before",
    "version": "the pointer had moved to another version",
}


@dataclass(frozen=True)
class Compared:
    """One feature's values of one slice.

    ``rows``: their places in ``answer`` (what was asked, served and joined). ``classes`` and
    ``behind`` (seconds between publication of the joined row and the request) are of that
    length, as are ``reasons``. ``again``: the recomputed values, if there are any.
    """

    answer: pa.Table
    feature: Feature
    version: int
    rows: NDArray[np.int64]
    classes: NDArray[np.int8]
    behind: NDArray[np.float64]
    reasons: Sequence[str]
    again: pa.Array | None = None

    @classmethod
    def of_transform(
        cls, answer: pa.Table, feature: Feature, inputs: Sequence[NDArray[np.int8]]
    ) -> "Compared":
        """A transform's output differs because an input does, or it is a bug."""
        equal = same(answer[SERVED + feature.label], answer[feature.name])
        worst = np.zeros(answer.num_rows, np.int8)
        for one in inputs:
            worst = np.maximum(worst, one)
        explained = worst > EQUAL
        pairs = zip(equal, explained, strict=True)
        classes = np.where(equal, EQUAL, np.where(explained, worst, BUG)).astype(np.int8)
        reasons = ["" if e else "input" if x else "transform" for e, x in pairs]
        rows = np.arange(answer.num_rows)
        return cls(answer, feature, 0, rows, classes, np.zeros(len(rows)), reasons)

    @classmethod
    def of_pointer(cls, answer: pa.Table, feature: Feature, version: int) -> "Compared":
        """Rows served after the pointer moved, against the version that it pointed to."""
        rows = np.flatnonzero(_flags(answer, SERVED + feature.view))
        equal = same(
            answer[SERVED + feature.label].take(pa.array(rows)),
            answer[feature.name].take(pa.array(rows)),
        )
        classes = np.where(equal, EQUAL, VERSION).astype(np.int8)
        reasons = ["" if one else "version" for one in equal]
        return cls(answer, feature, version, rows, classes, np.zeros(len(rows)), reasons)

    def over(self, own: "Compared") -> "Compared":
        """``own`` with what is equal in its own version, but not in the pointer's, so named."""
        where = {key: place for place, key in enumerate(own.identities())}
        classes, reasons = own.classes.copy(), list(own.reasons)
        for key, kind in zip(self.identities(), self.classes, strict=True):
            place = where.get(key)
            if place is not None and kind == VERSION and classes[place] == EQUAL:
                classes[place], reasons[place] = VERSION, "version"
        return replace(own, classes=classes, reasons=reasons)

    def and_also(self, other: "Compared") -> "Compared":
        """Two moves of one pointer within a slice."""
        table = pa.concat_tables([self.answer, other.answer], promote_options="permissive")
        return Compared(
            table,
            self.feature,
            other.version,
            np.concatenate([self.rows, other.rows + self.answer.num_rows]),
            np.concatenate([self.classes, other.classes]),
            np.concatenate([self.behind, other.behind]),
            [*self.reasons, *other.reasons],
        )

    def identities(self) -> list[tuple[int, int]]:
        """Request and row of each value."""
        held = self.answer.take(pa.array(self.rows))
        return list(zip(*(held[name].to_pylist() for name in ROW), strict=True))

    def cases(self, most: int) -> list[dict[str, Any]]:
        """The gravest differences, with everything that is needed to look at them again."""
        bad = np.flatnonzero(self.classes > EQUAL)
        order = bad[np.lexsort((-self.behind[bad], -self.classes[bad]))][:most]
        return [self._case(int(place)) for place in order]

    def _case(self, place: int) -> dict[str, Any]:
        [row] = self.answer.slice(int(self.rows[place]), 1).to_pylist()
        view = self.feature.view
        return {
            "class": CLASSES[self.classes[place]],
            "why": REASONS[self.reasons[place]],
            "request_id": row["request_id"],
            "row_number": row["row_number"],
            "served_at": row["event_timestamp"],
            "keys": {name: row.get(name) for name in self.feature.keys},
            "version": self.version or None,
            "as_of": row.get(f"{SERVED}{view}__as_of"),
            "served": row[SERVED + self.feature.label],
            "joined": row.get(self.feature.name),
            "recomputed": None if self.again is None else self.again[place].as_py(),
            "behind_seconds": float(self.behind[place]),
        }


def classify(
    conn: psycopg.Connection,
    answer: pa.Table,
    again: pa.Table | None,
    view: str,
    version: int,
    features: Sequence[Feature],
    computation: Computation | None,
) -> dict[str, Compared]:
    """Every feature of a view: ``answer`` by the join, ``again`` by recomputation."""
    rows = np.flatnonzero(_flags(answer, SERVED + view))
    held = answer.take(pa.array(rows))
    as_of = _micros(held[f"{SERVED}{view}__as_of"])
    joined = _joined_moments(held, view)
    places = _places(held, again) if again is not None else None
    differs: dict[str, NDArray[np.bool_]] = {}
    wrong: dict[str, NDArray[np.bool_]] = {}
    values: dict[str, pa.Array | None] = {}
    for feature in features:
        served = held[SERVED + feature.label].combine_chunks()
        differs[feature.label] = ~same(served, held[feature.name])
        wrong[feature.label], values[feature.label] = np.zeros(len(rows), np.bool_), None
        if again is not None and places is not None:
            computed = again[feature.name].combine_chunks().take(pa.array(places, mask=places < 0))
            values[feature.label] = computed
            wrong[feature.label] = ~same(served, computed)
    excused = _excused(conn, computation, held, as_of, wrong)
    any_differs = np.zeros(len(rows), np.bool_)
    for feature in features:
        any_differs |= differs[feature.label] & ~wrong[feature.label]
    look = np.flatnonzero(any_differs)
    found = _evidence(conn, computation, held, look, as_of, joined)
    result = {}
    for feature in features:
        classes, reasons, behind = _name(
            differs[feature.label], wrong[feature.label], as_of, joined, look, found,
            _micros(held["event_timestamp"]), excused, computation,
        )  # fmt: skip
        result[feature.label] = Compared(
            answer, feature, version, rows, classes, behind, reasons, values[feature.label]
        )
    return result


# The least moment that there is stands for a row that is not there.
_NEVER = np.iinfo(np.int64).min


def _name(
    differs: NDArray[np.bool_],
    wrong: NDArray[np.bool_],
    as_of: NDArray[np.int64],
    joined: NDArray[np.int64],
    look: NDArray[np.int64],
    found: Evidence | None,
    served_at: NDArray[np.int64],
    excused: "_Excused",
    computation: Computation | None,
) -> tuple[NDArray[np.int8], list[str], NDArray[np.float64]]:
    n = len(differs)
    classes, reasons = np.zeros(n, np.int8), [""] * n
    behind = np.zeros(n)

    def set_to(where: NDArray[np.bool_], kind: int, reason: str) -> None:
        classes[where] = kind
        for place in np.flatnonzero(where):
            reasons[place] = reason

    created = np.full(n, np.nan)
    dated_back, logged = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    if found is not None and len(look):
        created[look], dated_back[look], logged[look] = (
            found.created, found.dated_back, found.logged,
        )  # fmt: skip
    older = differs & (as_of < joined)
    late = older & (np.isnan(created) | dated_back)
    set_to(differs & (as_of == joined) & (as_of == _NEVER), BUG, "default")
    set_to(differs & (as_of == joined) & (as_of != _NEVER), BUG, "log")
    ahead = differs & (as_of > joined)
    set_to(ahead & logged, LATE, "late")
    set_to(ahead & ~logged, BUG, "unlogged")
    set_to(older & ~late, LAG, "lag")
    set_to(late, LATE, "late")
    default = as_of == _NEVER
    set_to(wrong & ~default & ~excused.claimed, BUG, "recomputed")
    set_to(wrong & ~default & excused.claimed, LATE, "claimed")
    uncomputed = wrong & default & ~excused.before_live & (classes < OVERDUE)
    set_to(uncomputed & ~excused.claimed, OVERDUE, "uncomputed")
    set_to(uncomputed & excused.claimed, LATE, "claimed")
    lagging = (classes == LAG) | ((classes == OVERDUE) & ~np.isnan(created))
    behind[lagging] = served_at[lagging] / 1e6 - created[lagging]
    if computation is not None:
        budget = computation.freshness.budget.total_seconds()
        set_to((classes == LAG) & (behind > budget), OVERDUE, "overdue")
    return classes, reasons, behind


@dataclass(frozen=True)
class _Excused:
    """Served rows whose recomputation may differ: arrays of one length.

    ``claimed``: history that became visible later claims an earlier arrival. ``before_live``: the
    view was not computed as it came yet.
    """

    claimed: NDArray[np.bool_]
    before_live: NDArray[np.bool_]


def _excused(
    conn: psycopg.Connection,
    computation: Computation | None,
    held: pa.Table,
    as_of: NDArray[np.int64],
    wrong: Mapping[str, NDArray[np.bool_]],
) -> _Excused:
    """Look at those rows alone that are wrong in some feature."""
    claimed, before_live = np.zeros(len(as_of), np.bool_), np.zeros(len(as_of), np.bool_)
    look = np.flatnonzero(np.logical_or.reduce([*wrong.values(), claimed]))
    if computation is None or not len(look):
        return _Excused(claimed, before_live)
    budget = computation.freshness.budget
    served_at = held["event_timestamp"].take(pa.array(look)).to_pylist()
    asked_at = [
        _moment(as_of[place]) or at - budget for place, at in zip(look, served_at, strict=True)
    ]
    mark = read_watermark(conn, computation)
    live_from = mark.live_from if mark else None
    before_live[look] = [live_from is None or at < live_from for at in asked_at]
    rows = held.take(pa.array(look))
    keys = zip(*(rows[key].to_pylist() for key in computation.join_keys), strict=True)
    asked = [(key, at, at) for key, at in zip(keys, asked_at, strict=True)]
    seen = history_evidence(conn, computation, asked)
    changes = changes_of(conn, computation, min(asked_at), datetime.now(UTC))
    logged_at = _logged_at(conn, computation, [(key, at) for key, at, _ in asked])
    claimed[look] = [
        one.rewritten or _changed_since(changes, at, at if default else logged, default=default)
        for one, at, logged, default in zip(
            seen, asked_at, logged_at, (as_of[look] == _NEVER).tolist(), strict=True
        )
    ]
    return _Excused(claimed, before_live)


def _changed_since(
    changes: Sequence[HistoryChange], at: datetime, computed: datetime | None, *, default: bool
) -> bool:
    """Whether history of ``at`` was changed after a value of it had been ``computed``.

    Rows that a value lacked are found one by one, by the transactions that wrote them: notes
    tell of what is gone, and of what a default, which no transaction wrote, did not know.
    """
    if computed is None:
        return False
    return any(
        change.changed_at > computed
        and (
            (default and (change.claimed_from is None or change.claimed_from <= at))
            or change.operation != "insert"
        )
        for change in changes
    )


def _logged_at(
    conn: psycopg.Connection,
    computation: Computation,
    rows: Sequence[tuple[tuple[object, ...], datetime]],
) -> list[datetime | None]:
    """When the log's row of each (key, event time) was logged; None: by a backfill, or never."""
    kinds = (*computation.key_types, "timestamptz")
    columns = zip(*((*key, at) for key, at in rows), strict=True)
    names = [f"k{i}" for i in range(len(computation.join_keys))]
    result = conn.execute(
        sql.SQL(
            "SELECT (SELECT min(l.created_timestamp) FROM {log} AS l WHERE {same} "
            "AND l.event_timestamp = c.at AND NOT l.{mark}) "
            "FROM unnest({arrays}) WITH ORDINALITY AS c ({names}, at, n) ORDER BY c.n"
        ).format(
            log=sql.Identifier(computation.log_table),
            mark=sql.Identifier(BACKFILLED),
            same=sql.SQL(" AND ").join(
                sql.SQL("l.{} = c.{}").format(sql.Identifier(key), sql.Identifier(name))
                for key, name in zip(computation.join_keys, names, strict=True)
            ),
            arrays=sql.SQL(", ").join(
                sql.SQL("{}::{}[]").format(sql.Literal(list(values)), sql.SQL(kind))
                for values, kind in zip(columns, kinds, strict=True)
            ),
            names=identifiers(names),
        )
    ).fetchall()
    cut = cut_of(conn, computation.log_table)
    if cut is not None:
        for (_, at), (logged,) in zip(rows, result, strict=True):
            if logged is None and not cut.answers(at):
                raise cut.refusal(at, SEARCH)
    return [at for (at,) in result]


def _evidence(
    conn: psycopg.Connection,
    computation: Computation | None,
    held: pa.Table,
    look: NDArray[np.int64],
    as_of: NDArray[np.int64],
    joined: NDArray[np.int64],
) -> Evidence | None:
    if computation is None or not len(look):
        return None
    rows = held.take(pa.array(look))
    return evidence(
        conn,
        computation,
        [rows[key].to_pylist() for key in computation.join_keys],
        rows["event_timestamp"].to_pylist(),
        [_moment(one) for one in as_of[look]],
        [_moment(one) for one in joined[look]],
    )


def _joined_moments(held: pa.Table, view: str) -> NDArray[np.int64]:
    """As of when the joined rows are: the request's time less the row's age."""
    served_at = _micros(held["event_timestamp"])
    ages = held[f"{view}__age_seconds"].to_numpy()
    there = held[f"{view}__found"].to_numpy()
    micros = np.rint(np.nan_to_num(ages) * 1e6).astype(np.int64)
    return np.where(there, served_at - micros, _NEVER)


def _places(held: pa.Table, again: pa.Table) -> NDArray[np.int64]:
    """The index of each served row among the recomputed ones; -1 for defaults."""
    index = {
        key: place
        for place, key in enumerate(zip(*(again[name].to_pylist() for name in ROW), strict=True))
    }
    keys = zip(*(held[name].to_pylist() for name in ROW), strict=True)
    return np.array([index.get(key, -1) for key in keys], np.int64)


def _flags(table: pa.Table, name: str) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = table[name].to_numpy()
    return flags


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    whole = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(whole.fill_null(int(_NEVER)).to_numpy(), np.int64)


def _moment(micros: np.int64) -> datetime | None:
    if micros == _NEVER:
        return None
    whole, rest = divmod(int(micros), 1_000_000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest)


def counts(features: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Values by class, over all features."""
    return {name: sum(int(feature[name]) for feature in features) for name in CLASSES}
