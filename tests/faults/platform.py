"""A small platform on durable servers, and its commands as processes that can be killed."""

import contextlib
import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
from psycopg import sql

from extensions import addresses
from extensions.asof import Computation
from extensions.cli import main
from extensions.cli.app import app
from extensions.database import connect
from extensions.local import postgres, valkey
from extensions.local.server_process import Server
from extensions.operations.database_setup import prepare_database
from extensions.stores.publish_log import online_store, registered
from tests.online.repository import EPOCH, watch
from tests.oracle.answers import VIEWS, Answer, agrees
from tests.oracle.features import Keys
from tests.oracle.records import Classification, GenrePlace, History, Watch

REPO_ROOT = Path(__file__).resolve().parents[2]
USERS, ITEMS, EVENTS = 40, 24, 2_000
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.faults.platform"])
_SERVERS = {"postgres": postgres, "redis": valkey}


@dataclass
class Platform:
    """Servers with data of their own, prepared, applied and with a month of history."""

    folder: Path
    servers: dict[str, Server] = field(default_factory=dict)
    commands: int = 0

    @classmethod
    @contextlib.contextmanager
    def run(cls, folder: Path) -> Iterator["Platform"]:
        """Servers that are stopped at the end, whoever killed them in between."""
        platform = cls(folder)
        try:
            for kind, module in _SERVERS.items():
                platform.servers[kind] = module.start(folder / kind)
            platform.prepare()
            yield platform
        finally:
            for server in platform.servers.values():
                server.stop()

    @property
    def url(self) -> str:
        return self.servers["postgres"].url

    @property
    def environment(self) -> dict[str, str]:
        return {
            addresses.POSTGRES_VARIABLE: self.url,
            addresses.REDIS_VARIABLE: self.servers["redis"].url,
        }

    def prepare(self) -> None:
        os.environ.update(self.environment)
        prepare_database(self.url)
        watch(self.url, USERS, ITEMS, EVENTS, datetime.now(UTC) - timedelta(minutes=5))
        with contextlib.chdir(REPO_ROOT):
            config = load_repo_config(REPO_ROOT, REPO_ROOT / "feature_store.yaml")
            apply_total(config, REPO_ROOT, skip_source_validation=False)

    def start(self, *arguments: str) -> "Command":
        """A `skewless` command in a process of its own, everything imported already."""
        return self._start(_skewless, arguments)

    def start_materialize(self) -> "Command":
        """`feast materialize` over all history, the same way."""
        return self._start(_materialize, ())

    def _start(self, target: Callable[..., None], arguments: tuple[str, ...]) -> "Command":
        self.commands += 1
        output = self.folder / f"command-{self.commands}.log"
        process = _FORKSERVER.Process(
            target=target, args=(arguments, self.environment, str(output)), daemon=True
        )
        process.start()
        return Command(process, output, " ".join(arguments) or target.__name__)

    def kill_server(self, kind: str) -> None:
        """Kill −9 a server, and start it again on its data and port."""
        old = self.servers[kind]
        old.process.kill()
        old.process.wait(20)
        self.servers[kind] = _SERVERS[kind].start(self.folder / kind, old.port)


@dataclass(frozen=True)
class Command:
    """A command under way; its output goes to a file."""

    process: BaseProcess
    output: Path
    name: str

    def end(self, seconds: float = 120) -> int:
        """Its exit code.

        Raises:
            AssertionError: it hangs, or a person would see a traceback.
        """
        self.process.join(seconds)
        assert not self.process.is_alive(), f"{self.name} hangs: {self.text()}"
        assert "Traceback" not in self.text(), f"{self.name}: {self.text()}"
        assert self.process.exitcode is not None
        return self.process.exitcode

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


def _skewless(arguments: tuple[str, ...], environment: Mapping[str, str], output: str) -> None:
    with _as_a_command(environment, output):
        sys.argv = ["skewless", *arguments]
        main(lambda: app(standalone_mode=True))


def _materialize(_: tuple[str, ...], environment: Mapping[str, str], output: str) -> None:
    def run() -> None:
        store = FeatureStore(str(REPO_ROOT))
        store.materialize(datetime.now(UTC) - timedelta(days=60), datetime.now(UTC))

    with _as_a_command(environment, output):
        main(run)


@contextlib.contextmanager
def _as_a_command(environment: Mapping[str, str], output: str) -> Iterator[None]:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    with contextlib.chdir(REPO_ROOT):
        yield


def history(url: str) -> History:
    """All that the database holds, as the oracle reads it."""
    with connect(url) as conn:
        watches = conn.execute(
            "SELECT event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress "
            "FROM watch_events ORDER BY ingested_at"
        ).fetchall()
        items = conn.execute("SELECT item_id, genre, valid_from, ingested_at FROM items").fetchall()
        places = conn.execute("SELECT genre, embedding, ingested_at FROM genres").fetchall()
    return History(
        tuple(Watch(*row) for row in watches),
        tuple(Classification(*row) for row in items),
        tuple(GenrePlace(genre, tuple(at), known) for genre, at, known in places),
    )


@dataclass(frozen=True)
class Row:
    """An entity's latest row of a log, or what Redis holds of it."""

    as_of: datetime
    answer: Answer


def latest_rows(conn: psycopg.Connection, computation: Computation) -> dict[Keys, Row]:
    """Each entity's latest row of the view's log."""
    keys = [sql.Identifier(key) for key in computation.join_keys]
    rows = conn.execute(
        sql.SQL(
            "SELECT DISTINCT ON ({keys}) {keys}, event_timestamp, {features} FROM {log} "
            "ORDER BY {keys}, event_timestamp DESC, created_timestamp DESC"
        ).format(
            keys=sql.SQL(", ").join(keys),
            features=sql.SQL(", ").join(sql.Identifier(f.name) for f in computation.features),
            log=sql.Identifier(computation.log_table),
        )
    ).fetchall()
    width = len(keys)
    return {row[:width]: Row(row[width], _answer(computation, row[width + 1 :])) for row in rows}


def online_rows(
    store: FeatureStore, computation: Computation, entities: list[Keys]
) -> dict[Keys, Row | None]:
    """What Redis holds of each entity, by Feast's own way to read it; None: nothing."""
    view = registered(store, computation)
    asked = [
        EntityKey(join_keys=computation.join_keys, entity_values=[Value(int64_val=k) for k in keys])
        for keys in entities
    ]
    found: dict[Keys, Row | None] = {}
    read = online_store(store).online_read(store.config, view, asked)
    for keys, (as_of, values) in zip(entities, read, strict=True):
        if as_of is None or values is None or as_of.replace(tzinfo=UTC) == EPOCH:
            found[keys] = None
            continue
        plain = [_plain(values[feature.name]) for feature in computation.features]
        found[keys] = Row(as_of.replace(tzinfo=as_of.tzinfo or UTC), _answer(computation, plain))
    return found


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("val")
    held = getattr(value, kind)
    return list(held.val) if hasattr(held, "val") else held


def _answer(computation: Computation, values: Any) -> Answer:
    """Values in the oracle's own types: float32 where the log has real."""
    return tuple(
        _typed(value, feature.pg_type)
        for value, feature in zip(values, computation.features, strict=True)
    )


def _typed(value: Any, pg_type: str) -> Any:
    if pg_type == "real[]":
        return tuple(np.float32(each) for each in value)
    return np.float32(value) if pg_type == "real" else value


@dataclass(frozen=True)
class Oracle:
    """The oracle's answers over one history, each entity's events found once."""

    whole: History
    by_user: Mapping[int, History]
    by_item: Mapping[int, History]

    @classmethod
    def of(cls, whole: History) -> "Oracle":
        users, items = defaultdict(list), defaultdict(list)
        for one in whole.deliveries:
            users[one.user_id].append(one)
            items[one.item_id].append(one)

        def narrowed(parts: Mapping[int, list[Watch]]) -> dict[int, History]:
            return {
                key: History(tuple(part), whole.classifications, whole.places)
                for key, part in parts.items()
            }

        return cls(whole, narrowed(users), narrowed(items))

    def agrees(self, view: str, keys: Keys, row: Row) -> bool:
        """Whether the row is what the oracle answers for its own time."""
        oracle = VIEWS[view]
        parts = self.by_user if oracle.join_keys[0] == "user_id" else self.by_item
        history = parts.get(keys[0]) or History((), self.whole.classifications, self.whole.places)
        return agrees(row.answer, oracle(history, keys, row.as_of), oracle.float32_steps)

    def active(self, view: str, keys: Keys, as_of: datetime) -> bool:
        """Whether the oracle's answer differs from that over no history at all."""
        oracle = VIEWS[view]
        parts = self.by_user if oracle.join_keys[0] == "user_id" else self.by_item
        history = parts.get(keys[0])
        nobody = History((), (), self.whole.places)
        return history is not None and oracle(history, keys, as_of) != oracle(nobody, keys, as_of)
