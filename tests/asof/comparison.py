"""Comparing all spines' answers with the oracle, for many generated histories at once.

Each case gets entities, event ids and genres of its own, so that thousands share a database
and every spine is asked once for all of them. What disagrees is reported per case.

Claims checked, for each computation:

* direct: a spine of given rows returns exactly these rows, with the oracle's answers;
* `touched(t0, t1)`: each entity once, with the oracle's answers, and every entity whose oracle
  answer at t1 differs from that at t0;
* `active(t)`: every entity whose answer is not the default;
* `changes(t0, t1)`: each (entity, moment) once, with the oracle's answers; after each change the
  oracle's answer stays the same until the next (for ticked views: as seen by the ticks);
* whatever `touched`, `active` and `changes` answered, a direct spine answers to the bit;
* DuckDB makes the same spines, and answers all that was asked of any to the bit.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import duckdb
from adbc_driver_postgresql import dbapi

from extensions.asof import Computation, Spine, active, changes, touched
from extensions.database import connect_arrow
from extensions.engines.duckdb import answers, session, spine_rows, use_history
from extensions.engines.postgresql import fetched, history_rows
from extensions.errors import DefinitionError
from tests.asof.asking import (
    Answered,
    QuestionRow,
    ask,
    ask_rows,
    questions_of,
    rows_of,
    spine_of,
)
from tests.asof.histories import DAY, ERAS, HOUR, MICROSECOND, STRANGERS, Case
from tests.asof.loading import load
from tests.oracle.answers import VIEWS, Answer, agrees, bits, brief
from tests.oracle.features import Keys
from tests.oracle.records import joined

STRIDE = 8  # ids of a case: fewer than this
MOST_PROBES = 24
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def disagreements(
    url: str, computations: Iterable[Computation], cases: Sequence[Case]
) -> dict[int, list[str]]:
    """What the engine answers otherwise than the oracle, by the case's place in `cases`."""
    placed = [case.moved(STRIDE * n, f"{n}/" if n else "") for n, case in enumerate(cases)]
    load(url, joined(case.history for case in placed))
    found: dict[int, list[str]] = defaultdict(list)
    with connect_arrow(url) as conn, session() as duck:
        for computation in computations:
            use_history(duck, {s.table: history_rows(conn, s) for s in computation.reads})
            comparison = _Comparison(conn, duck, computation, placed, found)
            comparison.direct()
            for era in sorted({case.era for case in placed}):
                comparison.ticks(era)
                comparison.history(era)
            comparison.same_bits()
            comparison.same_in_duckdb()
    return dict(found)


@dataclass
class _Comparison:
    """One computation's turn; complaints go into `found`."""

    conn: dbapi.Connection
    duck: duckdb.DuckDBPyConnection
    computation: Computation
    cases: Sequence[Case]
    found: dict[int, list[str]]
    known: dict[QuestionRow, Answer] = field(default_factory=dict)
    answered: dict[QuestionRow, Answer] = field(default_factory=dict)

    @property
    def oracle(self) -> Any:
        return VIEWS[self.computation.view]

    def truth(self, keys: Keys, as_of: datetime) -> Answer:
        question = keys, as_of
        if question not in self.known:
            history = self.cases[keys[0] // STRIDE].history
            self.known[question] = self.oracle(history, keys, as_of)
        return self.known[question]

    def complain(self, keys: Keys, text: str) -> None:
        self.found[keys[0] // STRIDE].append(f"{self.computation.name}: {text}")

    def direct(self) -> None:
        """The questions that the cases bring, duplicates and strangers included."""
        view = self.computation.view
        rows = [(q.keys(view), q.as_of) for case in self.cases for q in case.questions]
        answered = ask_rows(self.conn, self.computation, rows)
        asked, got = Counter(rows), Counter(question for question, _ in answered)
        for keys, as_of in asked.keys() | got.keys():
            times = asked[keys, as_of], got[keys, as_of]
            if times[0] != times[1]:
                self.complain(keys, f"{keys} at {as_of}: asked {times[0]}x, answered {times[1]}x")
        self._compare("a direct spine", answered)

    def ticks(self, era: str) -> None:
        """`touched` between the era's pivots and `active` at them."""
        cases = [case for case in self.cases if case.era == era]
        pivots = cases[0].pivots
        entities = [(case, keys) for case in cases for keys in self.oracle.entities(case.history)]
        nobody = (STRANGERS[0],) * len(self.computation.join_keys)
        for before, now in [*pairwise(pivots), (pivots[0], pivots[-1])]:
            found = self._spine(f"touched({before}, {now})", touched(self.computation, before, now))
            for _, keys in entities:
                if keys in found:
                    continue
                change = self.truth(keys, before), self.truth(keys, now)
                if bits(change[0]) == bits(change[1]):
                    continue
                was, became = (brief(answer) for answer in change)
                said = f"{keys} went from {was} to {became} between {before} and {now}"
                self.complain(keys, f"{said}, but is not in touched")
        for now in pivots:
            found = self._spine(f"active({now})", active(self.computation, now))
            default = bits(self.truth(nobody, now))
            for _, keys in entities:
                if keys not in found and bits(self.truth(keys, now)) != default:
                    self.complain(keys, f"{keys} is not in active({now}) but not at its default")

    def history(self, era: str) -> None:
        """`changes` over the era; over some hours of it where the value decays."""
        start = ERAS[era]
        after, through = start - 37 * DAY, start + 62 * DAY
        if self.computation.decays:
            after, through = start - 2 * HOUR, start + 5 * HOUR
        name = f"changes({after}, {through})"
        moments: dict[Keys, list[datetime]] = defaultdict(list)
        spine = changes(self.computation, after, through)
        answered = self._ask(name, spine)
        for (keys, as_of), _ in answered:
            if not after < as_of <= through:
                self.complain(keys, f"{name} asks about {as_of}")
            if moments[keys] and moments[keys][-1] == as_of:
                self.complain(keys, f"{name} asks about {keys} at {as_of} more than once")
            moments[keys].append(as_of)
        self._compare(name, answered)
        for case in self.cases:
            if case.era == era:
                for keys in self.oracle.entities(case.history):
                    self._constant(case, keys, [after, *moments[keys]], through)

    def _constant(self, case: Case, keys: Keys, moments: list[datetime], through: datetime) -> None:
        for probe in self._probes(case, moments[0], through):
            last = moments[bisect_right(moments, probe) - 1]
            logged, true = self.truth(keys, last), self.truth(keys, probe)
            if logged is not true and bits(logged) != bits(true):
                self.complain(
                    keys,
                    f"{keys}: changes has nothing after {last} ({brief(logged)}), but at {probe} "
                    f"the answer is {brief(true)}",
                )
                return

    def _probes(self, case: Case, after: datetime, through: datetime) -> list[datetime]:
        """Moments in (after, through] at which an answer could betray a missing change."""
        period = self.computation.freshness.period
        if self.computation.decays:
            assert period
            first = _tick(after + MICROSECOND, period)
            return [first + n * period for n in range((through - first) // period + 1)]
        critical = _critical(case, self.oracle.horizon)
        if len(critical) > MOST_PROBES:
            critical = critical[:: len(critical) // MOST_PROBES + 1]
        probes: set[datetime] = set()
        for moment in critical:
            if period is None:
                probes |= {moment - MICROSECOND, moment}
            else:
                tick = _tick(moment, period)
                probes |= {tick, tick + period}
        return sorted(probe for probe in probes if after < probe <= through)

    def _spine(self, name: str, spine: Any) -> dict[Keys, Answer]:
        """Ask, compare, and return the answers by entity."""
        answered = self._ask(name, spine)
        self._compare(name, answered)
        by_entity: dict[Keys, Answer] = {}
        for (keys, _), answer in answered:
            if keys in by_entity:
                self.complain(keys, f"{name} has {keys} more than once")
            by_entity[keys] = answer
        return by_entity

    def _ask(self, name: str, spine: Spine) -> Answered:
        """PostgreSQL's answers to a spine, which DuckDB must make as well."""
        answered = ask(self.conn, self.computation, spine)
        made = Counter(questions_of(spine_rows(self.duck, spine), self.computation))
        asked = Counter(question for question, _ in answered)
        for keys, as_of in (asked - made) + (made - asked):
            self.complain(keys, f"{name} in DuckDB: not as often {keys} at {as_of}")
        return answered

    def _compare(self, name: str, answered: Answered) -> None:
        for (keys, as_of), answer in answered:
            true = self.truth(keys, as_of)
            if not agrees(answer, true, self.oracle.float32_steps):
                self.complain(
                    keys, f"{name}: {keys} at {as_of}: {brief(answer)}, by the oracle {brief(true)}"
                )
            first = self.answered.setdefault((keys, as_of), answer)
            if first is not answer and bits(first) != bits(answer):
                self.complain(keys, f"{name}: {keys} at {as_of}: not the bits of another spine")

    def same_bits(self) -> None:
        """One direct spine of everything that any spine was asked."""
        for (keys, as_of), answer in ask_rows(self.conn, self.computation, list(self.answered)):
            if bits(self.answered[keys, as_of]) != bits(answer):
                self.complain(keys, f"{keys} at {as_of}: a direct spine has other bits")

    def same_in_duckdb(self) -> None:
        """All that any spine was asked, in one spine."""
        spine = spine_of(self.computation, list(self.answered))
        try:
            asked = fetched(self.conn, spine.query)
            table = answers(self.duck, self.computation, asked).read_all()
        except DefinitionError as error:
            for keys, _ in self.answered:
                self.complain(keys, error.message)
            return
        got = dict(rows_of(table, self.computation))
        for (keys, as_of), answer in self.answered.items():
            there = got.get((keys, as_of), ())
            if bits(there) != bits(answer):
                self.complain(keys, f"{keys} at {as_of}: in DuckDB {brief(there)}")


def _critical(case: Case, horizon: timedelta | None) -> list[datetime]:
    """Every moment at which knowledge grows or a watch leaves a window."""
    history = case.history
    moments = {moment for w in history.watches for moment in (w.watched_at, w.ingested_at)}
    if horizon is not None:
        moments |= {w.watched_at + horizon for w in history.watches}
    moments |= {m for c in history.classifications for m in (c.valid_from, c.ingested_at)}
    moments |= {p.ingested_at for p in history.places}
    return sorted(moments)


def _tick(moment: datetime, period: timedelta) -> datetime:
    """The first tick at or after the moment: whole periods since the Unix epoch."""
    return moment + (EPOCH - moment) % period
