"""Newest wins, whoever writes: a million writes in any order, watched by a reader."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait

import numpy as np
import pytest

from tests.online.writers import key_of, table_of, write_all

WRITERS, PROCESSES = 50, 2


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as made:
        yield made


@pytest.mark.parametrize(
    ("composite", "writes", "entities"), [(False, 1_000_000, 4_000), (True, 100_000, 1_000)]
)
def test_a_million_writes_and_no_regression(
    store, config, redis_server, pool, composite: bool, writes: int, entities: int
) -> None:
    table = table_of(composite)
    keys = [key_of(entity, composite) for entity in range(entities)]
    order = np.random.default_rng(7).permutation(writes)
    parts = np.array_split(order, WRITERS)
    best = np.full(entities, -1)
    rng, reads = np.random.default_rng(8), 0
    running = [
        pool.submit(
            write_all, redis_server, config.project, parts[i::PROCESSES], entities, composite
        )
        for i in range(PROCESSES)
    ]
    while wait(running, timeout=0.02).not_done:
        some = rng.integers(0, entities, 200)
        seen = counts(store.online_read(config, table, [keys[i] for i in some]))
        assert (seen >= best[some]).all()  # what was seen once is never older again
        np.maximum.at(best, some, seen)
        reads += int((seen >= 0).sum())
    taken = sum(one.result() for one in running)
    assert reads > 1_000
    assert 0 < taken < writes
    newest = np.zeros(entities, np.int64)
    np.maximum.at(newest, order % entities, order)
    last = counts(store.online_read(config, table, keys))
    assert (last == newest).all()


def counts(rows: list) -> np.ndarray:
    return np.array([-1 if row is None else row["count"].int64_val for _, row in rows])
