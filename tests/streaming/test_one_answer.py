"""Stream, batch and backfill give one answer, to the bit, for the same events."""

import random
from datetime import UTC, datetime, timedelta

from extensions.asof import Spine, append
from extensions.asof.backfill import backfill
from extensions.database import connect
from streaming.settings import Settings
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Stream


def test_the_streams_log_is_what_a_backfill_writes(settings: Settings, fleet: Fleet) -> None:
    """Each streamed value equals the engine's answer for its moment; a backfill ends on the same.

    The events arrive shuffled, with duplicates, late by up to eight days.
    """
    stream, rng = Stream(settings), random.Random(11)
    now = datetime.now(UTC)
    values = [
        event(
            rng.randrange(5),
            rng.randrange(3),
            eventId=f"e{number}",
            progress=rng.randrange(65) / 64,
            watchedAt=(now - timedelta(hours=rng.uniform(0, 192))).isoformat(),
        )
        for number in range(400)
    ]
    values += rng.sample(values, 50)
    rng.shuffle(values)
    worker = fleet.start()
    wait_until(stream.at_rest, 60, "a worker has every partition")
    send(settings, list(values))
    wait_until(lambda: stream.stored() == 400 and stream.at_rest(), 40, "all is stored")
    assert fleet.stop(worker) == 0
    assert stream.assert_logged() > 0

    with connect(settings.postgres_url, autocommit=True) as conn:
        for view in stream.views:
            computation, table = view.computation, view.computation.log_table
            keys = ", ".join(computation.join_keys)
            columns = f"{keys}, event_timestamp, {computation.features[0].name}"
            streamed = set(conn.execute(f"SELECT {columns} FROM {table}"))
            assert streamed

            # The same questions once more, all at once: what a tick or a training set asks.
            conn.execute(f"TRUNCATE {table}")
            append(conn, computation, Spine.of([row[:-1] for row in streamed], computation))
            assert set(conn.execute(f"SELECT {columns} FROM {table}")) == streamed

            # The log that would exist had nobody streamed.
            conn.execute(f"TRUNCATE {table}, watermarks")
            backfill(conn, computation, now - timedelta(days=1), datetime.now(UTC))
            latest = (
                f"SELECT DISTINCT ON ({keys}) {keys}, {computation.features[0].name} FROM {table} "
                f"ORDER BY {keys}, event_timestamp DESC"
            )
            for *entity, value in conn.execute(latest):
                served = stream.online(view, [tuple(entity)])[tuple(entity)][1]
                assert served == value
