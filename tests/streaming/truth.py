"""What must hold of a stream that has come to rest, and what a reader must never see."""

import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from psycopg import sql

from extensions.database import connect
from streaming.kafka import dead_letters
from streaming.processing.offsets import read_position
from streaming.processing.realtime_views import LiveView, live_views
from streaming.settings import Settings
from streaming.stream_status import status
from tests.oracle.answers import VIEWS
from tests.oracle.records import History, Watch
from tests.streaming.load import ITEMS, USERS, Load

Keys = tuple[int, ...]


class Stream:
    """A look at everything that one stream has left behind."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = FeatureStore(str(settings.repo_root))
        self.views = live_views(settings, self.store)

    def at_rest(self) -> bool:
        """Everything that was produced is read, stored, computed and swept."""
        now = status(self.settings)
        partitions = now.partitions
        return (
            len(partitions) == self.settings.partitions
            and all(p.lag_records == 0 and (p.behind_seconds or 99) < 3 for p in partitions)
            and len(now.views) == len(self.views)
            and all(view.behind_seconds < 4 for view in now.views)
        )

    def pending(self) -> bool:
        """Whether a step has stored events whose values it has not computed (yet)."""
        with connect(self.settings.postgres_url) as conn:
            positions = [
                read_position(conn, self.settings, partition)
                for partition in range(self.settings.partitions)
            ]
        return any(one is not None and one.pending is not None for one in positions)

    def stored(self) -> int:
        """Events in the table."""
        with connect(self.settings.postgres_url) as conn:
            row = conn.execute("SELECT count(*) FROM watch_events").fetchone()
            assert row is not None
            return int(row[0])

    def online(self, view: LiveView, keys: Iterable[Keys]) -> dict[Keys, tuple[datetime, Any]]:
        """Event time and value of the view's one feature, as Redis has them now."""
        names = view.computation.join_keys
        asked = list(keys)
        entity_keys = [_entity_key(names, each) for each in asked]
        provider = self.store._get_provider()
        rows = provider.online_read(self.store.config, view.feature_view, entity_keys, None)
        feature = view.computation.features[0].name
        found = {}
        for each, (at, values) in zip(asked, rows, strict=True):
            kind = values[feature].WhichOneof("val")
            value = getattr(values[feature], kind)
            found[each] = (at, np.float32(value) if kind == "float_val" else value)
        return found

    def entities(self, view: LiveView) -> list[Keys]:
        """Every entity that the load can name."""
        if view.computation.join_keys == ("user_id",):
            return [(user,) for user in range(USERS)]
        return [(user, item) for user in range(USERS) for item in range(ITEMS)]

    def history(self) -> dict[int, History]:
        """The stored events as the oracle reads them, by user."""
        watches = defaultdict(list)
        with connect(self.settings.postgres_url) as conn:
            for row in conn.execute(
                "SELECT event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress "
                "FROM watch_events"
            ):
                watches[row[1]].append(Watch(*row))
        return {user: History(tuple(each)) for user, each in watches.items()}

    def assert_events(self, load: Load) -> None:
        """The table holds what was produced: nothing lost, nothing double, nothing changed."""
        with connect(self.settings.postgres_url) as conn:
            rows = conn.execute(
                "SELECT event_id, user_id, item_id, watched_at, duration_ms, progress "
                "FROM watch_events"
            ).fetchall()
        stored = {row[0]: row[1:] for row in rows}
        assert len(rows) == len(stored)
        produced = {
            event_id: (e.user_id, e.item_id, e.watched_at, e.duration_ms, e.progress)
            for event_id, e in load.events.items()
        }
        assert stored == produced

    def assert_dead_letters(self, load: Load) -> None:
        """Every message that is no event is a letter, once."""
        letters = dead_letters.list_(self.settings)
        assert len(letters) == load.bad
        assert len({letter.position for letter in letters}) == load.bad

    def assert_logged(self) -> int:
        """Every logged value is the oracle's at its moment; returns how many there are."""
        history, checked = self.history(), 0
        for view in self.views:
            computation, oracle = view.computation, VIEWS[view.computation.view]
            width = len(computation.join_keys)
            query = sql.SQL("SELECT {}, event_timestamp, created_timestamp, {} FROM {}").format(
                sql.SQL(", ").join(map(sql.Identifier, computation.join_keys)),
                sql.Identifier(computation.features[0].name),
                sql.Identifier(computation.log_table),
            )
            with connect(self.settings.postgres_url) as conn:
                for row in conn.execute(query):
                    keys, (at, created, value) = row[:width], row[width:]
                    [true] = oracle(history.get(keys[0], History()), keys, at)
                    assert value == true, f"{view.computation.name} {keys} at {at}: not {true}"
                    assert created >= at
                    checked += 1
        return checked

    def assert_served(self) -> None:
        """What Redis has is the oracle's answer now."""
        history, now = self.history(), datetime.now(UTC)
        for view in self.views:
            oracle = VIEWS[view.computation.view]
            for keys, (_, value) in self.online(view, self.entities(view)).items():
                [true] = oracle(history.get(keys[0], History()), keys, now)
                assert value == true, f"{view.computation.name} {keys}: {value}, not {true}"


class Reader(threading.Thread):
    """Watches while workers come and go: no offset, watermark or value goes back in time."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._stopping = threading.Event()
        self._latest: dict[Any, Any] = {}
        self.regressions: list[str] = []
        self.looks = 0

    def run(self) -> None:
        with psycopg.connect(self._stream.settings.postgres_url, autocommit=True) as conn:
            while not self._stopping.wait(0.05):
                self._look(conn)
                self.looks += 1

    def stop(self) -> None:
        """Stop looking.

        Raises:
            AssertionError: something went back.
        """
        self._stopping.set()
        self.join(20)
        assert not self.regressions, self.regressions[:5]
        assert self.looks > 5

    def _look(self, conn: psycopg.Connection) -> None:
        for number, offset, through in conn.execute(
            "SELECT kafka_partition, next_offset, processed_through FROM stream_offsets"
        ):
            self._note(("offset", number), offset)
            self._note(("watermark", number), through)
        for name, through in conn.execute("SELECT view_name, processed_through FROM watermarks"):
            self._note(("watermark", name), through)
        for view in self._stream.views:
            found = self._stream.online(view, self._stream.entities(view))
            for keys, (at, _) in found.items():
                self._note((view.computation.name, *keys), at)

    def _note(self, what: Any, now: Any) -> None:
        before = self._latest.get(what)
        if before is not None and (now is None or now < before):
            self.regressions.append(f"{what}: {before} and then {now}")
        self._latest[what] = now


def _entity_key(names: tuple[str, ...], keys: Keys) -> Any:
    return EntityKey(join_keys=names, entity_values=[Value(int64_val=key) for key in keys])
