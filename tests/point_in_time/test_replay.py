"""A stream replayed: training rows of past moments are what the HTTP API returned then.

One thread writes as production does: steps of the worker (late and repeated events), pushes over
HTTP, ticks, publishing and Feast's materialization. Another asks for rankings meanwhile and notes
the database's clock. Of a request during which nothing was being published the training join must
return every value. A reply that met a publication half-way may hold the row before it or after
it; which one, the reply says, and the log must hold that very row.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import psycopg
import pytest
from feast import FeatureStore

from extensions.asof import Computation
from extensions.asof.tick import tick
from extensions.database import connect
from extensions.serving.settings import Settings as ServingSettings
from extensions.stores.log_publishing import publish
from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import Message
from streaming.kafka.subscription import Batch, Placed
from streaming.processing.event_transaction import open_store
from streaming.processing.offsets import begin
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import live_views
from streaming.processing.step import Stepper
from streaming.settings import Settings
from streaming.worker_metrics import WorkerMetrics
from tests.asof.loading import watch_events_stream
from tests.online.repository import applied, watch
from tests.served import serving

USERS, ITEMS = 12, 10
MOMENTS = 1000
LATE = (0, 0, 1, 60, 86_400 * 6, 86_400 * 8, 86_400 * 40)
TICKED = ("user_preferences", "user_habits", "item_stats", "item_profile")
LONGEST = 120.0


@dataclass(frozen=True)
class Served:
    """A reply and the moment just before it was asked for; ``settled``: nothing was under way."""

    at: datetime
    settled: bool
    hour: int
    items: list[int]
    reply: Mapping[str, Any]


@dataclass
class Activity:
    """What is being published; a reader compares it before and after a request.

    ``settled``: requests during which nothing was.
    """

    begun: int = 0
    ended: int = 0
    settled: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def of(self, kind: str) -> Iterator[None]:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.begun += 1
        yield
        self.ended += 1


class Writer:
    """Everything that writes features, each in its turn."""

    def __init__(
        self, store: FeatureStore, database: str, url: str, computations: Mapping[str, Computation]
    ) -> None:
        self.activity = Activity()
        self.random = random.Random(20)
        self._store, self._url, self._computations = store, url, computations
        self._conn = connect(database, autocommit=True)
        self._settings = Settings(postgres_url=database, kafka_bootstrap="none")
        stream = watch_events_stream(database)
        self._stepper = Stepper(
            self._settings,
            stream.table,
            RowDecoder(stream),
            NoLetters(),  # type: ignore[arg-type]
            live_views(self._settings, store),
            Publisher(store),
            WorkerMetrics(),
            commit=lambda _offsets: None,
        )
        self._batch_conn = open_store(database, "replay", self._stepper.batches)
        begin(self._conn, self._settings, 0, 0, None)
        self._sent: list[bytes] = []
        self._offset = 0

    def close(self) -> None:
        self._conn.close()
        self._batch_conn.close()

    def run(self, stop: threading.Event) -> None:
        """In no order, one soon after another or with some requests in between."""
        slow: list[Callable[[], None]] = [self.tick_and_publish, self.tick_and_materialize]
        quick = [self.step] * 3 + [self.push]
        turns = slow + quick * 5
        for turn in slow + quick:
            turn()
        while not stop.is_set():
            self.random.choice(turns)()
            more = self.activity.settled + self.random.choice((0, 5, 10, 25))
            while self.activity.settled < more and not stop.wait(0.001):
                pass

    def step(self) -> None:
        """A worker's step: events of now, late ones, and some that came before."""
        values = [self._event() for _ in range(self.random.randint(1, 6))]
        if self._sent:
            values += self.random.sample(self._sent, min(2, len(self._sent)))
        self._sent += values
        first = self._offset
        messages = [
            Message("t", 0, first + i, int(time.time() * 1000), None, value)
            for i, value in enumerate(values)
        ]
        with self.activity.of("step"):
            self._stepper.step(self._batch_conn, Batch({0: messages}, {0: Placed(first, 0)}))
        self._offset += len(values)

    def push(self) -> None:
        """Through Feast's own route, online and to the log; some dated back."""
        # The clock within: a request between the two would be one that the push claims to precede.
        with self.activity.of("push"):
            now = self._clock()
            back = self.random.choice((0, 0, 3600))
            rows = {
                "user_id": [self.random.randrange(USERS)],
                "user_watch_count_7d": [self.random.randrange(1000, 2000)],
                "event_timestamp": [(now - timedelta(seconds=back)).isoformat()],
                "created_timestamp": [now.isoformat()],
            }
            reply = httpx.post(
                f"{self._url}/push",
                json={
                    "push_source_name": "user_watch_stats_push",
                    "df": rows,
                    "to": "online_and_offline",
                },
                timeout=20,
            )
            assert reply.status_code == 200, reply.text

    def tick_and_publish(self) -> None:
        with self.activity.of("publish"):
            for computation in self._ticked():
                tick(self._conn, computation)
                publish(self._store, self._conn, computation)
            self._wait_for_items()

    def tick_and_materialize(self) -> None:
        with self.activity.of("materialize"):
            for computation in self._ticked():
                tick(self._conn, computation)
            self._store.materialize_incremental(self._clock(), feature_views=list(TICKED))
            self._wait_for_items()

    def _wait_for_items(self) -> None:
        """Copies of items in the server follow a write within a second."""
        expected = {}
        for view in ("item_stats", "item_profile"):
            rows = self._conn.execute(
                f"SELECT item_id, max(event_timestamp) FROM {view}_v1 GROUP BY item_id"
            )
            expected[view] = dict(rows.fetchall())
        body = {"userId": 1, "itemIds": list(range(ITEMS)), "context": {"requestHour": 1}}
        deadline = time.monotonic() + 10
        while True:
            reply = httpx.post(f"{self._url}/v1/features/rank?include=meta", json=body, timeout=20)
            meta = reply.raise_for_status().json()["meta"]
            if all(
                _moment(meta[view]["asOf"][item]) == at
                for view, moments in expected.items()
                for item, at in moments.items()
                if item < ITEMS
            ):
                return
            assert time.monotonic() < deadline, "the server does not follow the items"
            time.sleep(0.02)

    def _ticked(self) -> list[Computation]:
        return [self._computations[f"{view}.v1"] for view in TICKED]

    def _event(self) -> bytes:
        watched = datetime.now(UTC) - timedelta(seconds=self.random.choice(LATE))
        return orjson.dumps(
            {
                "eventId": f"e{self.random.randrange(10**9)}",
                "userId": self.random.randrange(USERS),
                "itemId": self.random.randrange(ITEMS),
                "watchDurationMin": self.random.random() * 90,
                "progress": self.random.random(),
                "watchedAt": watched.isoformat(),
            }
        )

    def _clock(self) -> datetime:
        return clock(self._conn)


class NoLetters:
    """No message of this test is rejected."""

    def send(self, rejected: object) -> None:
        assert not rejected


def clock(conn: psycopg.Connection) -> datetime:
    row = conn.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    at: datetime = row[0]
    return at


def ask(
    http: httpx.Client, conn: psycopg.Connection, activity: Activity, chance: random.Random
) -> Served:
    """A ranking for a random user; one in twenty is nobody's, and some items are no item's."""
    user = chance.randrange(USERS) if chance.random() < 0.95 else 10**6
    items = chance.sample(range(ITEMS + 2), chance.randint(1, ITEMS))
    hour = chance.randrange(24)
    body = {"userId": user, "itemIds": items, "context": {"requestHour": hour}}
    begun = activity.begun
    settled = activity.ended == begun
    at = clock(conn)
    reply = http.post("/v1/features/rank?include=meta", json=body)
    assert reply.status_code == 200, reply.text
    settled = settled and activity.begun == begun
    return Served(at, settled, hour, items, reply.json())


@pytest.fixture(scope="module")
def served(
    database: str, redis_server: str, repo_root: Path, computations: dict[str, Computation]
) -> Iterator[tuple[FeatureStore, list[Served], Activity]]:
    """A store, and what its server replied while features were written."""
    with contextlib.ExitStack() as stack:
        url = redis_server.rpartition("/")[0] + "/12"
        store = stack.enter_context(applied(database, url, repo_root))
        watch(database, USERS, ITEMS, 300, datetime.now(UTC) - timedelta(minutes=5))
        conn = stack.enter_context(connect(database, autocommit=True))
        for computation in computations.values():
            tick(conn, computation)
            publish(store, conn, computation)
        server = contextlib.contextmanager(serving)
        address = stack.enter_context(
            server(ServingSettings(repo=repo_root, redis_deadline_ms=5_000), store)
        )
        writer = Writer(FeatureStore(config=store.config), database, address, computations)
        stack.callback(writer.close)
        http = stack.enter_context(httpx.Client(base_url=address, timeout=20))
        replies: list[Served] = []
        chance, stop = random.Random(7), threading.Event()
        failures: list[BaseException] = []

        def write() -> None:
            try:
                writer.run(stop)
            except BaseException as error:  # noqa: BLE001 - shown by the other thread
                failures.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        deadline = time.monotonic() + LONGEST
        try:
            while writer.activity.settled < MOMENTS and not failures:
                assert time.monotonic() < deadline, f"{len(replies)} replies in {LONGEST} s"
                replies.append(one := ask(http, conn, writer.activity, chance))
                writer.activity.settled += one.settled
                # Those that meet a publication are many: no need to press it.
                time.sleep(0.0 if one.settled else chance.random() * 0.05)
        finally:
            stop.set()
            thread.join(timeout=60)
        if failures:
            raise failures[0]
        yield store, replies, writer.activity


def test_training_rows_are_what_was_served(
    served: tuple[FeatureStore, list[Served], Activity],
) -> None:
    store, replies, activity = served
    assert set(activity.kinds) == {"step", "push", "publish", "materialize"}
    settled = [one for one in replies if one.settled]
    random.Random(1).shuffle(settled)
    labels = pd.DataFrame(
        [
            {
                "user_id": one.reply["userId"],
                "item_id": item,
                "request_hour": one.hour,
                "event_timestamp": one.at,
            }
            for one in settled
            for item in one.items
        ]
    )
    service = store.get_feature_service("ranking")
    trained = store.get_historical_features(entity_df=labels, features=service).to_arrow()
    online = [
        {**one.reply["userFeatures"], **item["itemFeatures"], **item["interactionFeatures"]}
        for one in settled
        for item in one.reply["items"]
    ]
    names = [name for name in trained.column_names if name not in labels]
    assert len(names) == 10
    assert {name for row in online for name in row} == set(names)
    for name in names:
        was = _bits([row[name] for row in online], trained[name].type)
        known = _bits(trained[name].to_pylist(), trained[name].type)
        assert len(set(map(repr, was))) > 1, f"{name} never changed"
        differing = [i for i, pair in enumerate(zip(was, known, strict=True)) if pair[0] != pair[1]]
        assert not differing, (name, len(differing), labels.iloc[differing[0]].to_dict())

    # Dated now the same labels are other rows: the comparison above is not idle.
    now = labels.assign(event_timestamp=datetime.now(UTC))
    refs = ["user_watch_stats:user_watch_count_7d", "item_stats:item_popularity_score"]
    today = store.get_historical_features(entity_df=now, features=refs).to_arrow()
    for ref in refs:
        name = ref.partition(":")[2]
        assert today[name].to_pylist() != trained[name].to_pylist()


def test_every_reply_names_rows_of_the_log(
    served: tuple[FeatureStore, list[Served], Activity],
    database: str,
    computations: dict[str, Computation],
) -> None:
    """Also of requests that met a publication half-way."""
    _, replies, _ = served
    assert not all(one.settled for one in replies)
    views = {c.view: c for c in computations.values() if c.view in replies[0].reply["meta"]}
    assert len(views) == 6
    with connect(database) as conn:
        logs = {view: _log(conn, computation) for view, computation in views.items()}
    rows = 0
    for one in replies:
        for number, item in enumerate(one.reply["items"]):
            ids = {"user_id": one.reply["userId"], "item_id": item["itemId"]}
            values = {
                **one.reply["userFeatures"], **item["itemFeatures"], **item["interactionFeatures"]
            }  # fmt: skip
            for view, computation in views.items():
                as_of = one.reply["meta"][view]["asOf"]
                as_of = as_of[number] if isinstance(as_of, list) else as_of
                if as_of is None:
                    continue
                key = (*(ids[k] for k in computation.join_keys), _moment(as_of))
                shown = [values[f.name] for f in computation.features]
                assert any(_same(shown, row) for row in logs[view][key]), (view, key)
                rows += 1
    assert rows > MOMENTS


def _log(
    conn: psycopg.Connection, computation: Computation
) -> dict[tuple[Any, ...], list[list[Any]]]:
    names = [*computation.join_keys, "event_timestamp", *(f.name for f in computation.features)]
    found: dict[tuple[Any, ...], list[list[Any]]] = {}
    width = len(computation.join_keys) + 1
    for row in conn.execute(f"SELECT {', '.join(names)} FROM {computation.log_table}"):
        found.setdefault(tuple(row[:width]), []).append(list(row[width:]))
    return found


def _same(shown: list[Any], row: list[Any]) -> bool:
    return all(
        np.array_equal(np.float32(a), np.float32(b)) if isinstance(b, (float, list)) else a == b
        for a, b in zip(shown, row, strict=True)
    )


def _bits(values: list[Any], kind: Any) -> list[Any]:
    """Reals as the float32 that they are on both sides, to the bit."""
    if str(kind) in {"float", "list<item: float>", "list<element: float>"}:
        return [np.asarray(value, np.float32).tobytes() for value in values]
    return values


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
