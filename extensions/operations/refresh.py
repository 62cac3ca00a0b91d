"""A refresh: tick the feature log, then publish the new rows to Redis."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, perf_counter

import psycopg
from feast import FeatureStore

from extensions.addresses import postgres_url, project_name
from extensions.asof import Computation, Freshness, load_computations
from extensions.asof.history_changes import prune_history_changes
from extensions.asof.log_partitions import analyze_grown, roll
from extensions.asof.refused_entities import refused_entities
from extensions.asof.safe_time import settled_now
from extensions.asof.tick import tick
from extensions.asof.tick_schedule import due_tick
from extensions.database import connect
from extensions.database.project_claim import check_project
from extensions.errors import InputError, SkewlessError
from extensions.operations.lake_export import export_due
from extensions.repository import repo_root
from extensions.stores.log_publishing import publish
from extensions.stores.rebuild import reconcile
from extensions.suggestions import did_you_mean
from extensions.versions.maintained_versions import live_computations
from extensions.versions.retirement import finish_retired

# How often a loop looks after the logs' partitions, and when this process did.
_KEEP_SECONDS = 600.0
_kept = -_KEEP_SECONDS

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Refreshed:
    """One view's refresh: rows logged as of ``at`` and rows written to Redis.

    ``refused``: entities that it goes on without, since their values cannot be computed.
    """

    view: str
    version: int
    at: datetime
    since: datetime | None
    logged: int
    published: int
    seconds: float
    refused: int = 0


@dataclass(frozen=True)
class Refresher:
    """An open database, the files' computations and, unless offline, the Feast store."""

    conn: psycopg.Connection
    computations: dict[str, Computation]
    store: FeatureStore | None

    @classmethod
    @contextmanager
    def open(cls, *, online: bool) -> Iterator["Refresher"]:
        """Connect to what the addresses name; ``online`` False leaves Redis alone."""
        conn = connect(postgres_url(), autocommit=True, name="skewless refresh")
        try:
            check_project(conn, project_name() or "")
            computations = load_computations(repo_root())
            store = FeatureStore(str(repo_root())) if online else None
            yield cls(conn, computations, store)
        finally:
            conn.close()

    def choose(self, view: str | None, *, everything: bool = False) -> list[Computation]:
        """The computations of one view, or of all; of every live version, as of now.

        Where a stream has begun, realtime views are its business: they are left out unless
        named, or ``everything`` is asked for.

        Raises:
            InputError: there is no such view.
        """
        live = live_computations(self.conn, self.computations)
        chosen = [c for c in live.values() if view in (None, c.view, c.name)]
        if view is None and not everything and self._streaming():
            # Only the stream knows whether what was produced has arrived.
            chosen = [c for c in chosen if c.freshness is not Freshness.REALTIME]
        if not chosen:
            known = sorted({c.view for c in live.values()})
            raise InputError(
                f"There is no view {view}: there are {', '.join(known)}."
                f"{did_you_mean(str(view), [*known, *live])}"
            )
        return chosen

    def refresh(
        self,
        computations: Sequence[Computation],
        at: datetime | None,
        *,
        due_only: bool = False,
        full: bool = False,
        progress: Progress | None = None,
    ) -> list[Refreshed]:
        """Tick and publish each view; with ``due_only``, those whose hour or day has ended.

        Due ticks lie on whole hours and days, where a backfill's lie too.

        Raises:
            SkewlessError: some views could not be refreshed; the others were.
        """
        done: list[Refreshed] = []
        failed: list[str] = []
        if due_only and self.store:
            # A retired version's log may have been kept until today.
            finish_retired(self.store, self.conn)
        for number, computation in enumerate(computations):
            try:
                refreshed = self._one_if_due(computation, at, due_only=due_only, full=full)
                if refreshed is not None:
                    done.append(refreshed)
            except SkewlessError as error:
                named = computation.name in error.message
                failed.append(error.message if named else f"{computation.name}: {error.message}")
            except (psycopg.DataError, psycopg.ProgrammingError) as error:
                # The view's own SQL failed on its data; the other views go on.
                failed.append(f"{computation.name}: {str(error).splitlines()[0]}.")
            if progress:
                progress(number + 1, len(computations))
        if due_only:
            failed += [*self._keep_partitions(), *self._export()]
        prune_history_changes(self.conn)
        if failed:
            raise SkewlessError(" ".join(failed))
        return done

    def _keep_partitions(self) -> list[str]:
        """Make the partitions of the time to come, of every log; returns what could not be done.

        Nothing depends on its being done this round: rows go into the newest partition until then.
        """
        global _kept  # noqa: PLW0603
        if monotonic() - _kept < _KEEP_SECONDS:
            return []
        _kept = monotonic()
        failed = []
        for computation in live_computations(self.conn, self.computations).values():
            try:
                roll(self.conn, computation.log_table)
                analyze_grown(self.conn, computation.log_table)
            except SkewlessError as error:
                failed.append(error.message)
        return failed

    def _export(self) -> list[str]:
        """Bring the lake up to now where one is configured; returns what could not be done."""
        try:
            export_due(self.conn, postgres_url(), repo_root())
        except SkewlessError as error:
            return [error.message]
        return []

    def _one_if_due(
        self, computation: Computation, at: datetime | None, *, due_only: bool, full: bool
    ) -> Refreshed | None:
        if self.store:
            reconcile(self.store, self.conn, computation)
        if not due_only:
            return self._one(computation, at, full=full)
        settled = settled_now(self.conn, computation.tables)
        if when := due_tick(self.conn, computation, settled):
            return self._one(computation, when, full=full)
        if self.store:
            # What an interrupted round, or a backfill, logged and did not publish.
            publish(self.store, self.conn, computation)
        return None

    def _streaming(self) -> bool:
        row = self.conn.execute("SELECT EXISTS (SELECT FROM stream_offsets)").fetchone()
        return bool(row and row[0])

    def _one(self, computation: Computation, at: datetime | None, *, full: bool) -> Refreshed:
        start = perf_counter()
        # Of a view that follows the stream, a full refresh corrects values, and the stream alone
        # says how far they go.
        held = full and computation.freshness is Freshness.REALTIME and self._streaming()
        result = tick(self.conn, computation, at, full=full, advance=not held)
        written = publish(self.store, self.conn, computation) if self.store else 0
        return Refreshed(
            computation.view,
            computation.version,
            result.at,
            result.since,
            result.rows,
            written,
            round(perf_counter() - start, 3),
            len(refused_entities(self.conn).get((computation.view, computation.version), ())),
        )
