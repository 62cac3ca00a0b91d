"""The shop's simulator: reproducible, exact in number; its messages are its rows.

Run by `test_shop.py` in a process of its own, whose repository is the shop.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from feature_repo.messages import TOPICS, message
from feature_repo.simulator.shop import LOOK_ALIKES

from extensions.asof.computation_loading import read_repository
from extensions.database import connect
from extensions.history.simulate import new_simulation, simulate
from extensions.sources import Sources, load_sources
from feature_repo.simulator import Simulation, live_messages, stream_messages
from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import Message

UNTIL = datetime(2026, 3, 2, 9, 30, 0, 123_456, tzinfo=UTC)
SMALL = Simulation(visitors=200, products=120, days=9, views=4_000, seed=3, until=UNTIL)
IDS = {"products": "lsn", "page_views": "view_id", "orders": "order_id"}
TIMES = {"products": "changed_at", "page_views": "viewed_at", "orders": "ordered_at"}


def rows(simulation: Simulation, source: str) -> list[dict[str, Any]]:
    return [row for batch in simulation.histories()[source] for row in batch.to_pylist()]


@pytest.fixture
def sources(fresh_database: str, repo_root: Path) -> Iterator[Sources]:
    with connect(fresh_database) as conn:
        yield load_sources(read_repository(repo_root), conn, "shop")


@pytest.mark.parametrize("source", IDS)
def test_equal_simulations_are_equal_whatever_the_batch_size(source: str) -> None:
    whole = pa.Table.from_batches(SMALL.histories()[source])
    small = pa.Table.from_batches(replace(SMALL).columns[source].batches(rows=97))
    assert whole.combine_chunks().equals(small.combine_chunks())
    assert not whole.equals(pa.Table.from_batches(replace(SMALL, seed=4).histories()[source]))


@pytest.mark.parametrize("source", IDS)
def test_counts_duplicates_and_late_events(source: str) -> None:
    simulation = replace(SMALL, duplicate_share=0.1, late_share=0.2)
    found = rows(simulation, source)
    assert len(found) == simulation.deliveries[source] > 0
    arrivals = [row["ingested_at"] for row in found]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] <= UNTIL
    first: dict[Any, dict[str, Any]] = {}
    for row in found:
        before = first.setdefault(row[IDS[source]], row)
        assert before | {"ingested_at": 0} == row | {"ingested_at": 0}
    assert len(found) - len(first) == round(len(first) * 0.1)
    lags = [row["ingested_at"] - row[TIMES[source]] for row in first.values()]
    assert min(lags) >= timedelta(0)
    late = sum(lag >= timedelta(minutes=15) for lag in lags) / len(lags)
    assert 0.1 < late < 0.3


def test_the_catalogue_changes_as_a_database_commits() -> None:
    columns = SMALL.columns["products"]
    told = columns.rows(np.arange(len(columns)))
    changes = [row for _, row in sorted({row["lsn"]: row for row in told}.items())]
    times = [row["changed_at"] for row in changes]
    assert times == sorted(times)
    lives: dict[str, str] = {}
    for row in changes:
        assert row["deleted"] == (row["op"] == "d") == (row["price"] is None)
        lives[row["sku"]] = lives.get(row["sku"], "") + row["op"]
    # Made, changed, and perhaps deleted and made again: nobody changes what is not there.
    assert all(re.fullmatch("cu*(dc?)?", life) for life in lives.values())
    assert len(lives) == SMALL.products
    assert {life[-2:] for life in lives.values()} >= {"c", "cu", "ud", "dc"}


def test_skus_that_look_alike_are_products_of_their_own() -> None:
    assert len(set(LOOK_ALIKES)) == len(LOOK_ALIKES)
    assert max(map(len, LOOK_ALIKES)) == 40
    viewed = {row["sku"] for row in rows(SMALL, "page_views")}
    assert set(LOOK_ALIKES) <= set(SMALL.shop.skus)
    assert len(viewed & set(LOOK_ALIKES)) > len(LOOK_ALIKES) / 2


def test_orders_follow_from_carts_and_cost_what_the_product_did() -> None:
    views, orders = rows(SMALL, "page_views"), rows(SMALL, "orders")
    added = {(row["visitor_id"], row["sku"]) for row in views if row["act"] == "add"}
    assert {(row["visitor_id"], row["sku"]) for row in orders} <= added
    prices: dict[str, list[tuple[datetime, Decimal]]] = {}
    for row in rows(SMALL, "products"):
        if not row["deleted"]:
            prices.setdefault(row["sku"], []).append((row["changed_at"], row["price"]))
    for row in orders:
        known = [pair for pair in prices[row["sku"]] if pair[0] <= row["ordered_at"]]
        assert row["amount"] == max(known, key=lambda pair: pair[0])[1] * row["quantity"]
    assert {row["status"] for row in orders} == {"paid", "invoiced", "declined"}


@pytest.fixture
def decoders(sources: Sources) -> dict[str, RowDecoder]:
    return {stream.topic: RowDecoder(stream) for stream in sources.streams.values()}


def decoded(decoders: dict[str, RowDecoder], sent: Any, now: datetime) -> list[dict[str, Any]]:
    decoder = decoders[sent.topic]
    letter = Message(sent.topic, 0, 0, round(now.timestamp() * 1000), sent.key, sent.value)
    found = [dict(zip(decoder.columns, row, strict=True)) for row in decoder.decode(letter, now)]
    for row in found:
        for money in {"price", "amount"} & row.keys():
            row[money] = None if row[money] is None else Decimal(row[money])
    return found


def test_the_history_as_messages_is_the_history_as_rows(decoders: dict[str, RowDecoder]) -> None:
    wanted = {
        source: [
            {k: v for k, v in row.items() if k != "ingested_at"} for row in rows(SMALL, source)
        ]
        for source in IDS
    }
    found: dict[str, list[dict[str, Any]]] = {source: [] for source in IDS}
    by_topic = {topic: source for source, topic in TOPICS.items()}
    tombstones, at = 0, datetime.min.replace(tzinfo=UTC)
    for sent in stream_messages(SMALL):
        assert sent.at >= at
        at = sent.at
        tombstones += sent.message.value is None
        found[by_topic[sent.message.topic]] += decoded(decoders, sent.message, UNTIL)
    assert found == wanted
    assert tombstones == sum(row["deleted"] for row in wanted["products"]) > 0
    half = SMALL.start_us / 1e6 + 4 * 86_400
    since = datetime.fromtimestamp(half, UTC)
    recent = list(stream_messages(SMALL, since))
    assert recent == [sent for sent in stream_messages(SMALL) if sent.at >= since]


def test_live_messages_are_taken_and_are_of_now(decoders: dict[str, RowDecoder]) -> None:
    now = UNTIL + timedelta(days=1)
    simulation = replace(SMALL, late_share=0.1, duplicate_share=0.05)
    sent = list(islice(live_messages(simulation, clock=lambda: now), 3_000))
    assert sent == list(islice(live_messages(replace(simulation), clock=lambda: now), 3_000))
    assert sent != list(islice(live_messages(simulation, clock=lambda: now, stream=1), 3_000))
    read = [row for each in sent for row in decoded(decoders, each, now)]
    kinds = Counter(row.get("act", row.get("status", row.get("deleted"))) for row in read)
    assert set(kinds) == {"view", "add", "remove", "paid", "invoiced", "declined", False, True}
    times = [next(row[t] for t in TIMES.values() if t in row) for row in read]
    assert (
        max(times) == now.replace(microsecond=now.microsecond // 1000 * 1000) or max(times) == now
    )
    assert 0.05 < sum(time < now - timedelta(minutes=14) for time in times) / len(times) < 0.15
    repeated = len(sent) - len(set(sent))
    assert 0.03 < repeated / len(sent) < 0.07
    lsns = [row["lsn"] for row in read if "lsn" in row]
    assert len(set(lsns)) == len({row["lsn"]: row for row in read if "lsn" in row})


def test_a_stored_row_is_a_message_that_is_read_as_it() -> None:
    [row, *_] = rows(SMALL, "orders")
    assert message("orders", row) == message("orders", dict(row))
    assert message("orders", row).key == row["visitor_id"].encode()


def test_it_is_loaded_whole_and_once(
    sources: Sources, fresh_database: str, repo_root: Path
) -> None:
    simulation = new_simulation(
        repo_root, visitors=200, products=120, days=9, views=4_000, seed=3, until=UNTIL
    )
    assert simulation == SMALL
    loads = simulate(fresh_database, simulation, sources).loads
    assert list(loads) == ["products", "page_views", "orders"]
    with psycopg.connect(fresh_database) as conn:
        for source, load in loads.items():
            stored = {row[IDS[source]] for row in rows(SMALL, source)}
            assert (load.read, load.inserted) == (SMALL.deliveries[source], len(stored))
            found = conn.execute(f"SELECT {IDS[source]} FROM {source}").fetchall()
            assert {key for (key,) in found} == stored
    again = simulate(fresh_database, simulation, sources).loads
    assert {name: load.inserted for name, load in again.items()} == dict.fromkeys(IDS, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"visitors": 1, "products": 1, "days": 1, "views": 10},
        {"views": 0},
        {"views": 1},
        {"days": 1},
        {"late_share": 1.0, "duplicate_share": 1.0},
        {"products": 3, "visitors": 2},
        {"cart_share": 1.0, "order_share": 1.0},
    ],
)
def test_any_size_is_simulated(changes: dict[str, Any]) -> None:
    simulation = replace(SMALL, **changes)
    assert simulation.deliveries == {name: len(rows(simulation, name)) for name in IDS}
    assert all(sent.message.topic for sent in stream_messages(simulation))
    assert len(list(islice(live_messages(simulation), 50))) == 50


@pytest.mark.parametrize(
    "changes",
    [
        {"visitors": 0},
        {"views": -1},
        {"seed": -1},
        {"late_share": 1.5},
        {"until": UNTIL.replace(tzinfo=None)},
    ],
)
def test_what_cannot_be_simulated_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A simulation"):
        Simulation(**changes)
