"""PostgreSQL or Redis restored, emptied or restarted without the other: noticed, then mended."""

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from extensions import addresses
from extensions.asof import Computation
from extensions.asof.spine import entities
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.local import valkey
from extensions.operations.refresh import Refresher
from extensions.stores import restore_detection
from extensions.stores.log_publishing import registered
from extensions.stores.rebuild import rebuild_online, reconcile
from extensions.stores.restore_detection import State, check, publishing
from streaming.processing.feature_computation import log_values
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import LiveView, live_views
from streaming.processing.time_sweep import sweep
from streaming.settings import Settings
from tests.databases import create, cut, drop
from tests.online.test_publish import logged, online

STATS, PAIRS, PROFILE = "user_watch_stats.v1", "user_item_progress.v1", "item_profile.v1"


class World:
    """One store whose database and Redis can each go back to an earlier copy."""

    def __init__(
        self, server: str, url: str, folder: Path, root: Path, all_: dict[str, Computation]
    ) -> None:
        self.server, self.url, self.root, self.computations = server, url, root, all_
        self.folder = folder / "redis"
        self.folder.mkdir()
        self.copies = 0
        self.redis = valkey.start(self.folder)
        self.port = self.redis.ports[0]

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def store(self) -> FeatureStore:
        return FeatureStore(str(self.root))

    def conn(self) -> psycopg.Connection:
        return connect(self.url, autocommit=True)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis.url)

    def watch(self, *users: int, items: tuple[int, ...] = (1, 2, 3)) -> None:
        """Each of the users watches the items now."""
        with self.conn() as conn:
            for user in users:
                for item in items:
                    conn.execute(
                        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, "
                        "ingested_at, duration_ms, progress) VALUES (gen_random_uuid()::text, "
                        "%s, %s, clock_timestamp(), clock_timestamp(), 60000, random())",
                        [user, item],
                    )

    def refresh(self, *, full: bool = False) -> None:
        with Refresher.open(online=True) as refresher:
            refresher.refresh(refresher.choose(None), None, full=full)

    def verdict(self, name: str = STATS) -> State:
        with self.conn() as conn:
            return check(conn, self.store(), self.computations[name]).state

    def dump(self) -> str:
        self.copies += 1
        with psycopg.connect(self.server, autocommit=True) as conn:
            cut(conn, self.name)
            create(self.server, f"{self.name}_{self.copies}", self.name)
        return f"{self.name}_{self.copies}"

    def restore(self, dump: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as conn:
            drop(conn, self.name)
            create(self.server, self.name, dump)

    def copy(self) -> Path:
        """Redis' files as they are now, with all that was written."""
        self.redis.stop()
        self.copies += 1
        target = self.folder.parent / f"copy{self.copies}"
        shutil.copytree(self.folder, target)
        self.redis = valkey.start(self.folder, self.port)
        return target

    def put_back(self, copy: Path) -> None:
        self.redis.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)
        self.redis = valkey.start(self.folder, self.port)

    def differences(self) -> list[Any]:
        """Entities of any view of whom Redis does not say what the log says, or says too much."""
        found: list[Any] = []
        store = self.store()
        with self.conn() as conn:
            for name, computation in self.computations.items():
                held = logged(conn, computation)
                every = sorted({*held, *self.everybody(computation)})
                rows = [dict(zip(computation.join_keys, key, strict=True)) for key in every]
                read = online(store, computation, rows)
                for place, key in enumerate(every):
                    for number, feature in enumerate(computation.features):
                        value = read[feature.name][place]
                        expected = held[key][number] if key in held else feature.default
                        if not same(value, expected):
                            found.append((name, key, value, expected))
        return found

    def everybody(self, computation: Computation) -> list[tuple[int, ...]]:
        ids = {"user_id": range(1, 30), "item_id": range(1, 8)}
        first, *rest = (ids[name] for name in computation.join_keys)
        return [(a, *b) for a in first for b in ([(c,) for c in rest[0]] if rest else [()])]

    def stop(self) -> None:
        self.redis.stop()


def same(value: Any, expected: Any) -> bool:
    if isinstance(expected, str | None):
        return bool(value == expected)
    return bool(value == pytest.approx(expected, rel=1e-6))


@pytest.fixture
def world(
    postgres_server: str,
    fresh_database: str,
    tmp_path: Path,
    repo_root: Path,
    computations: dict[str, Computation],
) -> Iterator[World]:
    made = World(postgres_server, fresh_database, tmp_path, repo_root, computations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.POSTGRES_VARIABLE, fresh_database)
        patch.setenv(addresses.REDIS_VARIABLE, made.redis.url)
        patch.chdir(repo_root)
        config = load_repo_config(repo_root, repo_root / "feature_store.yaml")
        apply_total(config, repo_root, skip_source_validation=True)
        yield made
    made.stop()
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        for number in range(1, made.copies + 1):
            conn.execute(f"DROP DATABASE IF EXISTS {made.name}_{number}")


def swept(world: World) -> None:
    """What a worker's sweeper does every second, and a refresh of what is not its business."""
    settings = Settings(postgres_url=world.url, kafka_bootstrap="", topic="t", group="g")
    store = world.store()
    with world.conn() as conn:
        for view in live_views(settings, store):
            sweep(conn, view, Publisher(store))
    world.refresh()


def rebuilt(world: World) -> None:
    rebuild_online(world.store())


MENDERS: dict[str, Callable[[World], None]] = {
    "refresh": World.refresh,
    "refresh --full": lambda world: world.refresh(full=True),
    "sweep": swept,
    "rebuild-online": rebuilt,
}


@pytest.mark.parametrize("mender", MENDERS)
def test_a_database_restored_from_an_earlier_dump(world: World, mender: str) -> None:
    world.watch(*range(1, 11))
    world.refresh()
    assert world.verdict() is State.AGREES
    earlier = world.dump()
    world.watch(1, 2, 20, 21, items=(1, 4, 5))  # of whom 20 and 21 are new
    world.refresh()
    assert not world.differences()
    world.restore(earlier)
    assert {name: world.verdict(name) for name in (STATS, PAIRS)} == {
        STATS: State.DATABASE_OLDER,
        PAIRS: State.DATABASE_OLDER,
    }
    users = {key[0] for name, key, *_ in world.differences() if name == STATS}
    assert users == {1, 2, 20, 21}  # the lost future is served
    MENDERS[mender](world)
    assert not world.differences()
    assert world.verdict() is State.AGREES
    world.watch(1, 22)
    world.refresh()
    assert not world.differences()


@pytest.mark.parametrize("mender", MENDERS)
def test_redis_restored_from_an_earlier_copy(world: World, mender: str) -> None:
    world.watch(*range(1, 11))
    world.refresh()
    earlier = world.copy()
    world.refresh()
    world.watch(1, 2, 20)
    world.refresh()
    world.put_back(earlier)
    assert world.verdict() is State.ONLINE_OLDER
    assert world.verdict(PAIRS) is State.ONLINE_OLDER
    assert world.differences()
    MENDERS[mender](world)
    assert not world.differences()
    assert world.verdict() is State.AGREES


@pytest.mark.parametrize("mender", MENDERS)
def test_redis_emptied(world: World, mender: str) -> None:
    world.watch(*range(1, 11))
    world.refresh()
    world.client().flushall()
    assert world.verdict() is State.ONLINE_EMPTY
    MENDERS[mender](world)
    assert not world.differences()
    assert world.verdict() is State.AGREES


def test_redis_loses_its_last_second(world: World) -> None:
    """Rows of a step are gone and the mark before them is not: the run of Redis tells."""
    world.watch(*range(1, 6))
    world.refresh()
    earlier = world.copy()
    world.refresh()
    kept = world.copy()  # its run is another, and what follows is lost with it
    world.refresh()
    computation = world.computations[STATS]
    world.put_back(kept)
    world.refresh()
    crashed = world.copy()
    reconciled = world.store()
    with world.conn() as conn:
        reconcile(reconciled, conn, computation)
        world.watch(1, 2)
        at = datetime.now(UTC)
        rows = log_values(conn, computation, entities(computation, [(1,), (2,)], at))
        view = LiveView(computation, registered(reconciled, computation))
        Publisher(reconciled).publish(view, rows)
        # As a crash leaves it: the mark's last move was written, the rows after it were not.
        mark = world.client().hget("sk:!epochs", computation.log_table)
        world.put_back(crashed)
        world.client().hset("sk:!epochs", computation.log_table, mark)
        assert world.verdict() is State.RESTARTED
        lost = {key for name, key, *_ in world.differences() if name == STATS}
        assert lost == {(1,), (2,)}
        _, mended = reconcile(world.store(), conn, computation)
        assert mended is not None
    assert not [one for one in world.differences() if one[0] == STATS]
    assert world.verdict() is State.AGREES
    assert earlier != kept


def test_another_history_is_not_taken_for_ours(world: World) -> None:
    """Both are restored, each from its own past: the numbers fit, and the epochs do not."""
    world.watch(1, 2)
    world.refresh()
    early = world.copy()
    world.client().flushall()
    world.refresh()  # a repair: a new epoch
    assert world.verdict() is State.AGREES
    world.put_back(early)
    with world.conn() as conn:
        conn.execute("UPDATE online_epochs SET confirmed = 0")
    assert world.verdict() is State.ANOTHER_HISTORY
    world.refresh()
    assert not world.differences()


def test_a_publication_cut_short_anywhere_agrees(world: World, monkeypatch: Any) -> None:
    computation = world.computations[STATS]
    for step in ("_count", "advance_mark", "_confirm"):
        for first in (True, False):
            world.watch(1)
            if first:
                with world.conn() as conn:
                    conn.execute("DELETE FROM online_epochs; UPDATE watermarks SET "
                                 "published_through = NULL")  # fmt: skip
                world.client().flushall()
            real = getattr(restore_detection, step)

            def cut_after(*given: Any, real: Any = real, **more: Any) -> Any:
                real(*given, **more)
                raise ZeroDivisionError

            with monkeypatch.context() as patch:
                patch.setattr(restore_detection, step, cut_after)
                with pytest.raises(ZeroDivisionError):
                    world.refresh()
            state = world.verdict()
            # A first publication without a mark in Redis is as good as an empty Redis.
            assert state in (State.AGREES, State.UNPUBLISHED, State.ONLINE_EMPTY)
            assert first or state is State.AGREES
            world.refresh()
            assert world.verdict() is State.AGREES
            assert not [one for one in world.differences() if one[0] == computation.name]


def test_many_publishers_raise_no_false_alarm(world: World) -> None:
    world.watch(1)
    world.refresh()
    computation, store = world.computations[STATS], world.store()
    restore_detection.client_of(store)
    failures: list[Exception] = []

    def publish_often() -> None:
        with world.conn() as conn:
            for _ in range(60):
                try:
                    with publishing(conn, store, computation):
                        pass
                except SkewlessError as error:
                    failures.append(error)

    threads = [threading.Thread(target=publish_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert world.verdict() is State.AGREES


def test_what_a_stream_writes_meanwhile_is_not_lost(world: World) -> None:
    """Steps log and publish while a rebuild replaces: at the end Redis is the log."""
    world.watch(*range(1, 29), items=tuple(range(1, 8)))
    world.refresh()
    earlier = world.dump()
    world.watch(*range(1, 20))
    world.refresh()
    world.restore(earlier)
    store, done = world.store(), threading.Event()
    publisher = Publisher(store)
    chosen = [world.computations[name] for name in (STATS, PAIRS)]
    views = {c.name: LiveView(c, registered(store, c)) for c in chosen}
    steps = 0

    def stream() -> None:
        nonlocal steps
        with world.conn() as conn:
            while not done.is_set():
                for computation in chosen:
                    user = steps % 28 + 1
                    world.watch(user, items=(steps % 7 + 1,))
                    keys = [(user,)] if computation.name == STATS else [(user, steps % 7 + 1)]
                    now = datetime.now(UTC)
                    rows = log_values(conn, computation, entities(computation, keys, now))
                    publisher.publish(views[computation.name], rows)
                steps += 1

    running = threading.Thread(target=stream)
    running.start()
    try:
        for _ in range(3):
            rebuild_online(world.store())
    finally:
        done.set()
        running.join()
    assert steps > 10
    assert not [one for one in world.differences() if one[0] in (STATS, PAIRS)]


def test_rebuild_takes_out_whom_the_log_does_not_know(world: World) -> None:
    world.watch(1, 2, 3)
    world.refresh()
    store = world.store()
    with world.conn() as conn:
        for name in (STATS, PAIRS):
            conn.execute(f"DELETE FROM {world.computations[name].log_table} WHERE user_id = 2")
    [stats] = rebuild_online(store, STATS)
    [pairs] = rebuild_online(store, "user_item_progress")
    assert (stats.removed, pairs.removed) == (1, 3)
    assert not [one for one in world.differences() if one[0] in (STATS, PAIRS)]
