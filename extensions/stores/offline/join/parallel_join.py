"""Run a large join in chunks on several connections that share a snapshot, in label order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from psycopg import sql

from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.join.both_sides import ColdSide
from extensions.stores.offline.join.entity_frame import EntityTable
from extensions.stores.offline.join.point_in_time import ORDINAL, Key

# Labels below which a further connection costs more than it gains, and most of one part: what
# is in memory beside the result, and the step of a progress bar.
FEWEST, MOST = 10_000, 100_000


def join_in_chunks(
    session: ArrowSession,
    labels: EntityTable,
    keys: Sequence[Key],
    statement: sql.Composed,
    exact: Sequence[str],
    connections: int,
    finished: Callable[[pa.Table], pa.Table],
    cold: ColdSide | None = None,
) -> Iterator[pa.Table]:
    """Answers to the labels, part by part; ``statement`` asks about the uploaded labels.

    A part is uploaded in the order of its keys, answered in any, and put into the labels' order
    here: PostgreSQL need not sort. ``finished`` gives each answer its names and types. ``cold``:
    rows of the lake that are uploaded beside a part.
    """
    sent = labels.sent(keys)
    size = min(MOST, max(FEWEST, -(-sent.num_rows // connections)))
    parts = [sent.slice(at, size) for at in range(0, max(1, sent.num_rows), size)]
    lanes = min(connections, len(parts))

    def answer(lane: ArrowSession, part: pa.Table) -> pa.Table:
        labels.upload(lane, part)
        if cold is not None:
            first = part[ORDINAL][0].as_py() if part.num_rows else 0
            cold.upload(lane, first, first + part.num_rows)
        answered = pa.concat_tables(lane.chunks(statement, exact))
        lane.drop(labels.name)
        if cold is not None:
            cold.drop(lane)
        return _in_order(finished(answered))

    if len(parts) == 1:
        yield answer(session, sent)
        return
    with session.spread(lanes) as sessions, ThreadPoolExecutor(lanes, "join") as pool:
        under_way: deque[Future[pa.Table]] = deque()
        try:
            for number, part in enumerate(parts):
                # Each lane has one part at a time: the next one when its last is taken.
                ready = under_way.popleft().result() if len(under_way) == lanes else None
                under_way.append(pool.submit(answer, sessions[number % lanes], part))
                if ready is not None:
                    yield ready
            while under_way:
                yield under_way.popleft().result()
        finally:
            if under_way:
                for lane in sessions:
                    lane.cancel()


def _in_order(answered: pa.Table) -> pa.Table:
    ordinals = answered[ORDINAL].to_numpy()
    return answered.take(np.argsort(ordinals, kind="stable"))
