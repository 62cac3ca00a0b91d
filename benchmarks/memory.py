"""Memory in Redis: this repository's views in our layout and in Feast's, loaded for real.

`python -m benchmarks.memory [--quick] [--json FILE]`: 2M users × 7 features, 500k items × 2, and
user-item pairs; the quick form loads a tenth. Written by each store's own writer.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis
import yaml
from feast import FeatureView, Field, RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.repo_operations import parse_repo
from feast.types import from_value_type
from feast.utils import _convert_arrow_to_proto

from benchmarks.report import Row, arguments, publish
from extensions.addresses import connection_string_of
from extensions.local import valkey
from extensions.stores.online.store import (
    SkewlessRedisOnlineStore,
    SkewlessRedisOnlineStoreConfig,
)

REPO = Path.cwd()
USERS, ITEMS, PAIRS_PER_USER = 2_000_000, 500_000, 200
PUBLISHED_GB = 4.2
STEP = 20_000
GENRES = ["drama", "comedy", "thriller", "documentary", "western"]


def main() -> None:
    args = arguments(__doc__ or "")
    scale = 0.1 if args.quick else 1.0
    users, items = int(USERS * scale), int(ITEMS * scale)
    pairs = int(1_000_000 * scale)
    contents = parse_repo(REPO)
    entities = {entity.name: entity for entity in contents.entities}
    views = {view.name: view for view in contents.feature_views}
    for view in views.values():  # as the registry would return it
        view.current_version_number = 1
        view.entity_columns = [
            Field(name=entities[name].join_key, dtype=from_value_type(entities[name].value_type))
            for name in view.entities
        ]
    mine = _load(views, users, items, pairs, ours=True)
    # Feast's writer is slow: a fifth of the entities, and the figure is scaled up.
    fewer = 5
    other = _load(views, users // fewer, items // fewer, pairs // fewer, ours=False)
    gigabyte = 1e9 * scale
    publish(
        "memory",
        [
            Row("2M users x 7 features + 500k items x 2", "memory", "GB", "lower",
                mine["rows"] / gigabyte, other["rows"] * fewer / gigabyte,
                why=f"published system: {PUBLISHED_GB} GB; Valkey 9"),
            Row("user-item pairs", "memory each", "B", "lower",
                mine["pairs"] / pairs, other["pairs"] * fewer / pairs),
            Row("write, newest wins", "rate", "rows/s", "higher", mine["rate"], other["rate"]),
        ],
        args,
    )  # fmt: skip


def _load(
    views: dict[str, FeatureView], users: int, items: int, pairs: int, *, ours: bool
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        server = valkey.start(Path(folder), durable=False)
        try:
            client = redis.Redis.from_url(server.url)
            write = _writer(server.url, ours=ours)
            empty, began, rows = _used(client), time.perf_counter(), 0
            for name, table in _tables(users, items):
                write(views[name], table)
                rows += table.num_rows
            took, full = time.perf_counter() - began, _used(client)
            for name, table in _pairs(pairs):
                write(views[name], table)
            return {"rows": full - empty, "pairs": _used(client) - full, "rate": rows / took}
        finally:
            server.stop()


def _writer(url: str, *, ours: bool) -> Any:
    address: Any = {"connection_string": connection_string_of(url)}
    declared = yaml.safe_load((REPO / "feature_store.yaml").read_text())["online_store"]
    config = RepoConfig(
        project="skewless",
        provider="local",
        registry={
            "registry_type": "file",
            "path": "/dev/null",
            "enable_online_feature_view_versioning": True,
        },
        online_store=SkewlessRedisOnlineStoreConfig(**declared, **address)
        if ours
        else RedisOnlineStoreConfig(**address),
        entity_key_serialization_version=3,
    )
    if ours:
        store = SkewlessRedisOnlineStore()
        return lambda view, table: store.write_arrow(config, view, table)
    stock = RedisOnlineStore()

    def write(view: FeatureView, table: pa.Table) -> None:
        keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
        data: Any = _convert_arrow_to_proto(table.combine_chunks(), view, keys)
        stock.online_write_batch(config, view, data, None)

    return write


def _tables(users: int, items: int) -> Iterator[tuple[str, pa.Table]]:
    rng, real = np.random.default_rng(7), np.float32
    for ids in _parts(users, 1_000_000):
        n = len(ids)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(n * 32, real)), 32)
        yield (
            "user_watch_stats",
            _table(rng, user_id=ids, user_watch_count_7d=rng.integers(0, 90, n)),
        )
        yield (
            "user_preferences",
            _table(rng, user_id=ids, user_genre_preferences=vectors.cast(pa.list_(pa.float32()))),
        )
        yield (
            "user_habits",
            _table(
                rng,
                user_id=ids,
                user_avg_watch_duration_min=rng.random(n, real) * 60,
                user_preferred_hour=rng.integers(0, 24, n),
            ),
        )
    for ids in _parts(items, 100_000):
        n = len(ids)
        yield "item_stats", _table(rng, item_id=ids, item_popularity_score=rng.random(n, real))
        yield (
            "item_profile",
            _table(rng, item_id=ids, item_genre=[GENRES[i % len(GENRES)] for i in range(n)]),
        )


def _pairs(pairs: int) -> Iterator[tuple[str, pa.Table]]:
    rng = np.random.default_rng(8)
    for ids in _parts(pairs, 0):
        yield (
            "user_item_progress",
            _table(
                rng,
                user_id=ids // PAIRS_PER_USER,
                item_id=rng.integers(1, ITEMS, len(ids)),
                user_item_watch_progress=rng.random(len(ids), np.float32),
            ),
        )


def _parts(n: int, first: int) -> Iterator[Any]:
    for at in range(0, n, STEP):
        yield np.arange(first + at, first + min(at + STEP, n))


def _table(rng: np.random.Generator, **columns: Any) -> pa.Table:
    """Rows that were published some milliseconds after their moment."""
    n = len(next(iter(columns.values())))
    event = 1_767_225_600_000_000 + rng.integers(0, 10**9, n)
    created = event + rng.integers(5_000, 3_000_000, n)
    kind = pa.timestamp("us", "UTC")
    times = {"event_timestamp": pa.array(event, kind), "created_timestamp": pa.array(created, kind)}
    return pa.table({**columns, **times})


def _used(client: redis.Redis) -> int:
    info: Any = client.info("memory")
    return int(info["used_memory"])


if __name__ == "__main__":
    main()
