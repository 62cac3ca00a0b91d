"""Materialization beside stock Feast: reading the log, encoding rows, writing them to Redis."""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis as redis_client
from feast import FeatureStore, FeatureView
from feast.utils import _convert_arrow_to_proto

from benchmarks.report import Row
from benchmarks.training_setup import (
    SPAN,
    START,
    TTL,
    Size,
    Stores,
    fill_habits,
    habits,
    open_stores,
    quiet,
    user,
)
from extensions.stores.online.redis_io import Expiry, write
from extensions.stores.online.view_settings import layout_of
from extensions.stores.online_codec.redis_keys import place_of
from extensions.stores.online_codec.row_encoder import ids, pack_rows

EVENT, CREATED = "event_timestamp", "created_timestamp"


def materialize_users(url: str, redis: str, folder: Path, users: int, size: Size) -> list[Row]:
    """Feast's own ``materialize-incremental`` of one row per user, Redis empty before each run."""
    fill_habits(url, users)
    view, client = habits(users), redis_client.Redis.from_url(redis)
    taken: dict[str, list[float]] = {"ours": [], "stock": []}
    sampled: dict[str, Any] = {}
    stock_runs = size.stock_runs if users <= 100_000 else 1
    stores = {}
    for run in range(size.runs):
        for name in ("ours", "stock") if run < stock_runs else ("ours",):
            # A registry for each run: Feast goes on from where the last one ended.
            (of_run := folder / f"{view.name}_{name}_{run}").mkdir()
            both = open_stores(url, redis, of_run, [user, view])
            store = both.ours if name == "ours" else both.stock
            client.flushall()
            with quiet():
                spent = _seconds(partial(store.materialize_incremental, datetime.now(UTC)))
            taken[name].append(spent)
            sampled[name] = _served(store, view, users)
            stores[name] = store
    ours, stock = (statistics.median(taken[name]) for name in ("ours", "stock"))
    work = f"materialize-incremental of {users:,} users, 3 features"
    mine, theirs = _our_stages(stores["ours"], view), _stock_stages(stores["stock"], view)
    client.flushall()
    return [
        *(
            Row(work, f"stage: {stage}", "s", "lower", mine[stage], theirs[stage])
            for stage in ("read", "encode", "write")
        ),
        Row(
            work, "whole command", "rows/s", "higher", users / ours, users / stock,
            runs=stock_runs, spread=(users / max(taken["ours"]), users / min(taken["ours"])),
            equal=sampled["ours"] == sampled["stock"],
            why="newest wins atomically here only; our stages overlap",
        ),
    ]  # fmt: skip


def materialize_log(stores: Stores) -> list[Row]:
    """Few rows of many: the newest of each user of the large log's last 30 days."""
    end = START + SPAN
    figures = {}
    for name, store in (("ours", stores.ours), ("stock", stores.stock)):
        read, rows = _read(store, store.get_feature_view("sparse"), end - TTL, end)
        with quiet():
            whole = _seconds(partial(store.materialize, end - TTL, end, feature_views=["sparse"]))
        figures[name] = (read, whole, rows.num_rows)
    users, every = figures["ours"][2], figures["stock"][2]
    work = f"materialize {users:,} users from a log with {every:,} rows of them"
    return [
        Row(work, "stage: read", "s", "lower", figures["ours"][0], figures["stock"][0],
            why=f"ours reads {users:,} rows, stock's way {every:,}"),
        Row(work, "whole command", "s", "lower", figures["ours"][1], figures["stock"][1]),
    ]  # fmt: skip


def _read(
    store: FeatureStore, view: FeatureView, start: datetime, end: datetime
) -> tuple[float, pa.Table]:
    """What the batch engine asks of the offline store: ours the latest rows, stock's all."""
    offline: Any = store._get_provider().offline_store  # noqa: SLF001
    latest = store.config.materialization_config.pull_latest_features
    pull = (
        offline.pull_latest_from_table_or_query if latest else offline.pull_all_from_table_or_query
    )
    began = time.perf_counter()
    table = pull(
        config=store.config,
        data_source=view.batch_source,
        join_key_columns=["user_id"],
        feature_name_columns=[field.name for field in view.features],
        timestamp_field=EVENT,
        created_timestamp_column=CREATED,
        start_date=start,
        end_date=end,
    ).to_arrow()
    return time.perf_counter() - began, table


def _our_stages(store: FeatureStore, applied: FeatureView) -> dict[str, float]:
    view, config = store.get_feature_view(applied.name), store.config
    now = datetime.now(UTC)
    read, table = _read(store, view, now - timedelta(days=1), now)
    online: Any = store._get_provider().online_store  # noqa: SLF001
    layout = layout_of(config, view)
    where = place_of(config, view, layout.view)
    began = time.perf_counter()
    rows = [row for part in pack_rows(layout, table, EVENT, CREATED, sections=True) for row in part]
    keys = ids(table, "user_id", view.entity_columns[0].dtype.to_value_type())
    addresses = [where.of_ids([one]) for one in keys]
    encode = time.perf_counter() - began
    client = online._get_client(config.online_store)  # noqa: SLF001
    client.flushall()
    return {
        "read": read,
        "encode": encode,
        "write": _seconds(lambda: write(client, where, addresses, rows, Expiry())),
    }


def _stock_stages(store: FeatureStore, applied: FeatureView) -> dict[str, float]:
    view, config = store.get_feature_view(applied.name), store.config
    now = datetime.now(UTC)
    read, table = _read(store, view, now - timedelta(days=1), now)
    keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    began = time.perf_counter()
    rows = _convert_arrow_to_proto(table.combine_chunks(), view, keys)
    encode = time.perf_counter() - began
    provider: Any = store._get_provider()  # noqa: SLF001
    provider.online_store._get_client(config.online_store).flushall()  # noqa: SLF001
    spent = _seconds(lambda: provider.online_write_batch(config, view, rows, None))
    return {"read": read, "encode": encode, "write": spent}


def _served(store: FeatureStore, view: FeatureView, users: int) -> dict[str, Any]:
    rows = [{"user_id": number} for number in range(1, users, max(1, users // 500))]
    refs = [f"{view.name}:{field.name}" for field in view.features]
    return {
        name: list(values)
        for name, values in store.get_online_features(refs, rows).to_dict().items()
    }


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
