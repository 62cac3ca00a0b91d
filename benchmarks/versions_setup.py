"""Two versions of two views, published and filled; and stock Feast with the same two logs."""

import contextlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg
from feast import FeatureStore

from benchmarks.serving_data import stock_environment, stock_repository
from benchmarks.switching import Asked
from extensions.database import connect
from extensions.versions.apply import apply
from extensions.versions.declared_definitions import forget_modules

REPO = Path(__file__).resolve().parent.parent
EXAMPLES = REPO / "docs" / "examples" / "versions"
VIEWS = ("user_watch_stats", "item_stats")
COUNT, SCORE = "user_watch_count_7d", "item_popularity_score"
USER, ITEMS = 1, list(range(1, 101))
HISTORY = timedelta(days=3)


def history(conn: psycopg.Connection, users: int, items: int, events: int) -> None:
    """Watches of the last three days; every 40th is shorter than a minute."""
    conn.execute(
        "INSERT INTO items (item_id, genre, valid_from, ingested_at) "
        "SELECT i, 'drama', now() - interval '90 days', now() - interval '90 days' "
        "FROM generate_series(1, %s) AS i",
        [items],
    )
    conn.execute(
        "INSERT INTO watch_events "
        "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
        "SELECT 'b' || n, 1 + n %% %(users)s, 1 + (n * 7) %% %(items)s, t, t, "
        "CASE WHEN n %% 40 = 0 THEN 5000 ELSE 600000 END, 0.5 FROM (SELECT n, "
        "now() - interval '10 minutes' - n * (interval '3 days' / %(events)s) AS t "
        "FROM generate_series(1, %(events)s) AS n) AS e",
        {"users": users, "items": items, "events": events},
    )


class Ours:
    """A copy of the repository; its files name the second versions after `publish_second`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.root, self.url = folder, url
        shutil.copytree(
            REPO / "feature_repo",
            folder / "feature_repo",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for name in ("feature_store.yaml", ".feastignore"):
            shutil.copy(REPO / name, folder / name)

    def publish_first(self, conn: psycopg.Connection) -> None:
        """The first versions, with three days of log."""
        with self._current():
            apply(conn, self.root, since=datetime.now(UTC) - HISTORY)

    def publish_second(self, conn: psycopg.Connection) -> float:
        """The examples of the documentation; returns the seconds that apply took."""
        for view in VIEWS:
            name = f"{view}.v2.sql"
            shutil.copy(EXAMPLES / name, self.root / "feature_repo" / "computations" / name)
            self._edit("views.py", rf'(name="{view}",\n    version=)"v1"', r'\1"v2"')
            self._edit("sources.py", rf'log\("{view}", 1\)', f'log("{view}", 2)')
        began = time.perf_counter()
        with self._current():
            apply(conn, self.root)
        return time.perf_counter() - began

    def asked(self) -> Asked:
        """What each version serves, by Feast's own reading of ``view@vN``."""
        store = FeatureStore(str(self.root))

        def read(feature: str, rows: list[dict[str, int]]) -> list[float]:
            found = store.get_online_features(features=[feature], entity_rows=rows)
            values: list[float] = found.to_dict()[feature.partition(":")[2]]
            return values

        items = [{"item_id": item} for item in ITEMS]
        return Asked(
            user=USER,
            items=ITEMS,
            user_view=VIEWS[0],
            user_feature=COUNT,
            user_values={
                v: read(f"{VIEWS[0]}@v{v}:{COUNT}", [{"user_id": USER}])[0] for v in (1, 2)
            },
            item_view=VIEWS[1],
            item_feature=SCORE,
            # As JSON has them: the shortest text that is the same float32.
            item_values={
                v: [float(str(np.float32(x))) for x in read(f"{VIEWS[1]}@v{v}:{SCORE}", items)]
                for v in (1, 2)
            },
        )

    def _edit(self, name: str, old: str, new: str) -> None:
        path = self.root / "feature_repo" / name
        path.write_text(re.sub(old, new, path.read_text()))

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        forget_modules()
        sys.path.insert(0, str(self.root))
        try:
            with contextlib.chdir(self.root):
                yield
        finally:
            sys.path.remove(str(self.root))
            forget_modules()


# Definitions, values and server in one process, which imports Feast once: it is not measured.
STOCK = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from feast import FeatureStore
from feast.cli.cli import cli
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
root = Path.cwd()
config = load_repo_config(root, root / "feature_store.yaml")
apply_total(config, root, skip_source_validation=True)
now = datetime.now(UTC)
FeatureStore(config=config).materialize(now - timedelta(minutes=5), now, ["item_stats"])
cli(["serve", "-p", sys.argv[1], "--no-access-log", "--max-requests", "0"])
"""


class Stock:
    """Stock Feast: one unversioned view, whose source is one log or the other."""

    def __init__(self, folder: Path, postgres: str, redis: str) -> None:
        self.root = stock_repository(REPO, folder, postgres, redis)
        self.url = postgres

    @contextlib.contextmanager
    def serving(self, version: int, port: int) -> Iterator[Callable[[], None]]:
        """A server of a version's values; yields a function that waits for its first answer."""
        self._point_at(version)
        argv = [sys.executable, "-c", STOCK, str(port)]
        with running(argv, self.root, stock_environment(self.root)) as process:
            yield lambda: until_ready(process, port, "/health")

    def point_at(self, version: int) -> None:
        """What an operator types: edit the source, apply, recompute, materialize."""
        self._point_at(version)
        self._feast("apply", "--skip-source-validation")
        start = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S")
        end = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
        self._feast("materialize", start, end, "--views", "item_stats")

    def _point_at(self, version: int) -> None:
        path = self.root / "feature_repo" / "sources.py"
        path.write_text(
            re.sub(r'log\("item_stats", \d\)', f'log("item_stats", {version})', path.read_text())
        )
        with connect(self.url, autocommit=True) as conn:
            # Feast's store drops a row that is not newer than the one there, so values that are
            # to come back must be computed again; here the latest ones count as computed now.
            conn.execute(
                f"INSERT INTO item_stats_v{version} SELECT DISTINCT ON (item_id) item_id, now(), "
                f"now(), {SCORE} FROM item_stats_v{version} "
                "ORDER BY item_id, event_timestamp DESC, created_timestamp DESC"
            )

    def _feast(self, *words: str) -> None:
        """One of Feast's commands."""
        program = str(Path(sys.executable).with_name("feast"))
        done = subprocess.run(
            [program, *words], cwd=self.root, env=stock_environment(self.root),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def running(
    argv: list[str], folder: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, for as long as the block lasts."""
    process = subprocess.Popen(
        argv, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def until_ready(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    """Wait until a server answers ``path``."""
    deadline = time.monotonic() + 240
    while not _results(port, path):
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)


def _results(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
