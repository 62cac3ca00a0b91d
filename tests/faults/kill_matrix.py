"""The kill matrix: each command with itself or a server killed in its midst, then done again.

Whatever was killed, and when: the command says one sentence or succeeds, the same command again
completes it, and log and Redis then hold what the oracle says, with no event lost or doubled.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from feast import FeatureStore

from extensions.asof import Computation, load_computations
from extensions.database import connect
from tests.faults.platform import (
    ITEMS,
    REPO_ROOT,
    USERS,
    Command,
    Oracle,
    Platform,
    history,
    latest_rows,
    online_rows,
)

VICTIMS = ("program", "postgres", "redis")
NEW_EVENTS = 300
# How often the same command may fail after everything is back.
_ATTEMPTS = 2


@dataclass(frozen=True)
class Cell:
    """One command and who is killed during it."""

    operation: str
    victim: str


@dataclass(frozen=True)
class Result:
    """What a cell did; ``hit``: the command was still running when the victim was killed."""

    cell: Cell
    after_seconds: float
    hit: bool
    first_exit: int


class KillMatrix:
    """Runs cells one after the other on one platform, and judges after each."""

    def __init__(self, platform: Platform, seed: int) -> None:
        self.platform = platform
        self._draw = random.Random(seed)
        self._computations = load_computations(REPO_ROOT)
        self._took: dict[str, float] = {}
        self._files = 0
        self._imported: set[str] = set()
        self.operations: dict[str, Callable[[], Callable[[], Command]]] = {
            "refresh": self._refresh,
            "refresh --full": self._refresh_full,
            "backfill": self._backfill,
            "import": self._import,
            "materialize": self._materialize,
            "rebuild-online": self._rebuild,
            "training-set": self._training_set,
        }
        # The first process of all waits for everything to be imported: its time says nothing.
        first = platform.start("refresh")
        assert first.end() == 0, first.text()

    def undisturbed(self, operation: str) -> float:
        """Seconds that the operation takes when nobody dies; measured once."""
        if operation not in self._took:
            command = self.operations[operation]()
            began = time.monotonic()
            running = command()
            assert running.end() == 0, running.text()
            self._took[operation] = time.monotonic() - began
        return self._took[operation]

    def run(self, cell: Cell) -> Result:
        """Kill the victim somewhere in the operation; then everything must come right.

        Raises:
            AssertionError: it did not, and how.
        """
        took = self.undisturbed(cell.operation)
        command = self.operations[cell.operation]()
        delay = self._draw.uniform(0, took)
        running = command()
        time.sleep(delay)
        hit = running.process.is_alive()
        if cell.victim == "program":
            running.process.kill()
            running.process.join(20)
            code = running.process.exitcode or 0
        else:
            self.platform.kill_server(cell.victim)
            code = running.end()
        self._until_done(command, cell)
        self._judge(cell)
        return Result(cell, round(delay, 3), hit, code)

    def _until_done(self, command: Callable[[], Command], cell: Cell) -> None:
        said = []
        for _ in range(_ATTEMPTS):
            running = command()
            if running.end() == 0:
                return
            said.append(running.text())
        raise AssertionError(f"{cell}: does not complete: {said}")

    def _judge(self, cell: Cell) -> None:
        """Log = Redis = oracle for every entity; nothing of the history lost or doubled."""
        converge = self.platform.start("refresh")
        assert converge.end() == 0, converge.text()
        oracle = Oracle.of(history(self.platform.url))
        self._assert_imported(oracle)
        store = FeatureStore(str(REPO_ROOT))
        with connect(self.platform.url, autocommit=True) as conn:
            for computation in self._computations.values():
                self._assert_view(conn, store, oracle, computation, cell)

    def _assert_view(
        self,
        conn: psycopg.Connection,
        store: FeatureStore,
        oracle: Oracle,
        computation: Computation,
        cell: Cell,
    ) -> None:
        view = computation.view
        logged = latest_rows(conn, computation)
        entities = _everyone(computation)
        online = online_rows(store, computation, entities)
        now = datetime.now(UTC)
        for keys in entities:
            row, served = logged.get(keys), online[keys]
            where = f"{cell}: {computation.name} {keys}"
            if row is None:
                assert not oracle.active(view, keys, now), f"{where} has no row in the log"
                assert served is None, f"{where} is online and not in the log"
                continue
            assert oracle.agrees(view, keys, row), f"{where}: the log has {row}"
            assert served == row, f"{where}: Redis has {served}, the log {row}"

    def _assert_imported(self, oracle: Oracle) -> None:
        stored = [one.event_id for one in oracle.whole.deliveries]
        assert len(stored) == len(set(stored))
        assert self._imported <= set(stored)

    def _refresh(self) -> Callable[[], Command]:
        self._more_events()
        return lambda: self.platform.start("refresh")

    def _refresh_full(self) -> Callable[[], Command]:
        self._more_events()
        return lambda: self.platform.start("refresh", "--full")

    def _backfill(self) -> Callable[[], Command]:
        end = datetime.now(UTC)
        start = (end - timedelta(days=6)).isoformat()
        return lambda: self.platform.start(
            "backfill", "all", "--from", start, "--to", end.isoformat(), "--again"
        )

    def _import(self) -> Callable[[], Command]:
        path = self._csv()
        return lambda: self.platform.start("import", "events", str(path))

    def _materialize(self) -> Callable[[], Command]:
        return self.platform.start_materialize

    def _rebuild(self) -> Callable[[], Command]:
        return lambda: self.platform.start("rebuild-online")

    def _training_set(self) -> Callable[[], Command]:
        labels, out = self._labels(), self.platform.folder / f"train-{self._files}.parquet"
        return lambda: self.platform.start("training-set", "ranking", str(labels), str(out))

    def _more_events(self) -> None:
        """Events that arrive now, by the database's clock, as the stream's do."""
        with connect(self.platform.url) as conn:
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
        path = self.platform.folder / f"events-{self._files}.csv"
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
        self._files += 1
        path = self.platform.folder / f"labels-{self._files}.csv"
        now = datetime.now(UTC)
        rows = [
            f"{self._draw.randint(1, USERS)},{self._draw.randint(1, ITEMS)},{now.hour},"
            f"{(now - timedelta(seconds=n)).isoformat()}"
            for n in range(2_000)
        ]
        path.write_text("\n".join(["user_id,item_id,request_hour,event_timestamp", *rows]) + "\n")
        return path


def _everyone(computation: Computation) -> list[tuple[int, ...]]:
    match computation.join_keys:
        case ("user_id",):
            return [(user,) for user in range(1, USERS + 1)]
        case ("item_id",):
            return [(item,) for item in range(1, ITEMS + 1)]
        case _:
            return [(u, i) for u in range(1, USERS + 1) for i in range(1, ITEMS + 1)]


@contextmanager
def kill_matrix(folder: Path, seed: int) -> Iterator[KillMatrix]:
    """A matrix on a platform of its own."""
    with Platform.run(folder) as platform:
        yield KillMatrix(platform, seed)
