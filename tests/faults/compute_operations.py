"""The matrix's commands that compute and move values: from the tick to the training set."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg
import pyarrow.parquet as pq

from extensions.asof import Computation
from extensions.asof.failpoints import Fault
from extensions.database import connect
from extensions.versions.maintained_versions import live_computations
from tests.faults.judge import Oracle, Row, assert_backfilled, history, row_at
from tests.faults.operation import Attempt, Operation
from tests.faults.platform import ITEMS, USERS, Command, Platform

NEW_EVENTS, LABELS = 300, 2_000
BACKFILLED = timedelta(days=6)
# The first is passed where DuckDB is asked.
CHUNK = tuple(fault.value for fault in Fault)


class ComputeOperations:
    """Prepares attempts at the commands, on one platform."""

    def __init__(self, platform: Platform, draw: random.Random) -> None:
        self._platform, self._draw = platform, draw
        self._files = 0
        self._imported: set[str] = set()

    def all(self) -> dict[str, Operation]:
        return {
            "refresh": Operation(self._refresh),
            "refresh --full": Operation(lambda: self._refresh("--full")),
            "backfill": Operation(self._backfill, CHUNK[1:], ("postgres",)),
            "backfill --engine duckdb": Operation(
                lambda: self._backfill("--engine", "duckdb"), CHUNK, ("postgres",)
            ),
            "import": Operation(self._import),
            "materialize": Operation(self._materialize),
            "rebuild-online": Operation(self._rebuild),
            "training-set": Operation(self._training_set),
        }

    def _start(self, *arguments: str) -> Callable[[str], Command]:
        return lambda fault: self._platform.start(*arguments, fault=fault)

    def _refresh(self, *options: str) -> Attempt:
        self._more_events()
        return Attempt(self._start("refresh", *options))

    def _backfill(self, *options: str) -> Attempt:
        end = datetime.now(UTC)
        start = end - BACKFILLED
        command = ("backfill", "all", "--from", start.isoformat(), "--to", end.isoformat())
        return Attempt(
            self._start(*command, "--again", *options),
            after=lambda where, oracle: self._assert_backfilled(where, oracle, start),
        )

    def _assert_backfilled(self, where: str, oracle: Oracle, start: datetime) -> None:
        with connect(self._platform.url, autocommit=True) as conn:
            for computation in live_computations(conn, {}).values():
                between = (start, self._platform.begun)
                assert_backfilled(conn, oracle, computation, between, self._draw, where)

    def _import(self) -> Attempt:
        path = self._csv()

        def assert_stored(where: str, oracle: Oracle) -> None:
            stored = {watch.event_id for watch in oracle.whole.deliveries}
            assert stored >= self._imported, f"{where}: events are lost"

        return Attempt(self._start("import", "events", str(path)), after=assert_stored)

    def _materialize(self) -> Attempt:
        return Attempt(lambda _: self._platform.start_materialize())

    def _rebuild(self) -> Attempt:
        return Attempt(self._start("rebuild-online"))

    def _training_set(self) -> Attempt:
        labels, out = self._labels(), self._platform.folder / f"train-{self._files}.parquet"

        def whole_or_absent() -> None:
            assert not out.exists() or pq.read_table(out).num_rows == LABELS

        return Attempt(
            self._start("training-set", "ranking", str(labels), str(out)),
            between=whole_or_absent,
            check=lambda where: self._assert_taken(out, where),
        )

    def _assert_taken(self, out: Path, where: str) -> None:
        """Each label has what the log's latest row then said, of the version that was served."""
        rows = pq.read_table(out).to_pylist()
        assert len(rows) == LABELS, where
        assert out.with_name(out.stem + ".manifest.json").is_file(), where
        oracle = Oracle.of(history(self._platform.url))
        with connect(self._platform.url, autocommit=True) as conn:
            computations = live_computations(conn, {})
            for label in self._draw.sample(rows, 40):
                at = label["event_timestamp"]
                for view in sorted({c.view for c in computations.values()}):
                    computation = computations.get(f"{view}.v{_default_at(conn, view, at)}")
                    if computation is not None:  # else retired since, and its log dropped
                        _assert_label(conn, oracle, computation, label, at, where)

    def _more_events(self) -> None:
        """Events that arrive now, by the database's clock, as the stream's do."""
        with connect(self._platform.url) as conn:
            conn.execute(
                "INSERT INTO watch_events "
                "(event_id, user_id, item_id, watched_at, duration_ms, progress) "
                "SELECT gen_random_uuid()::text, 1 + n * 7 %% %(users)s, 1 + n * 5 %% %(items)s, "
                "now() - n * interval '31 minutes', 60000, 0.25 "
                "FROM generate_series(1, %(events)s) AS n",
                {"users": USERS, "items": ITEMS, "events": NEW_EVENTS},
            )

    def _csv(self) -> Path:
        self._files += 1
        path = self._platform.folder / f"events-{self._files}.csv"
        now = datetime.now(UTC)
        rows = []
        for n in range(NEW_EVENTS):
            event_id = f"import-{self._files}-{n}"
            self._imported.add(event_id)
            at = now - timedelta(minutes=self._draw.uniform(1, 10_000))
            rows.append(
                f"{event_id},{self._draw.randint(1, USERS)},{self._draw.randint(1, ITEMS)},"
                f"{at.isoformat()},{self._draw.randint(1, 90)},0.5"
            )
        header = "event_id,user_id,item_id,watched_at,duration_min,progress"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    def _labels(self) -> Path:
        """Moments between the first live values and now."""
        self._files += 1
        path = self._platform.folder / f"labels-{self._files}.csv"
        now = datetime.now(UTC)
        lived = now - self._platform.begun
        rows = [
            f"{self._draw.randint(1, USERS)},{self._draw.randint(1, ITEMS)},{now.hour},"
            f"{(now - lived * self._draw.random()).isoformat()}"
            for _ in range(LABELS)
        ]
        path.write_text("\n".join(["user_id,item_id,request_hour,event_timestamp", *rows]) + "\n")
        return path


def _default_at(conn: psycopg.Connection, view: str, at: datetime) -> int:
    row = conn.execute(
        "SELECT to_version FROM promotions WHERE view_name = %s AND moved_at <= %s "
        "ORDER BY moved_at DESC LIMIT 1",
        [view, at],
    ).fetchone()
    return 1 if row is None else int(row[0])


def _assert_label(
    conn: psycopg.Connection,
    oracle: Oracle,
    computation: Computation,
    label: dict[str, object],
    at: datetime,
    where: str,
) -> None:
    keys = tuple(label[key] for key in computation.join_keys)
    row = row_at(conn, computation, keys, at)  # type: ignore[arg-type]
    expected = Row(at, oracle.default(computation, keys, at)) if row is None else row  # type: ignore[arg-type]
    taken = tuple(_as_in_a_log(label[feature.name]) for feature in computation.features)
    wanted = tuple(_as_in_a_log(value) for value in expected.answer)
    assert taken == wanted, f"{where}: {computation.name} {keys} at {at}: {taken}, not {wanted}"


def _as_in_a_log(value: object) -> object:
    """Numbers that compare equal where they are: a float of float32's value, a tuple for a list."""
    if isinstance(value, (list, tuple)):
        return tuple(float(np.float32(each)) for each in value)
    return float(value) if isinstance(value, (float, np.float32)) else value
