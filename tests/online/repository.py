"""The repository itself, applied to a database and a Redis of a test module's own."""

import contextlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from feast import FeatureStore, RepoConfig
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from extensions import addresses
from extensions.database import connect

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@contextlib.contextmanager
def applied(database: str, redis_url: str, repo_root: Path) -> Iterator[FeatureStore]:
    """The store, with nothing in Redis and nothing in the logs."""
    redis.Redis.from_url(redis_url).flushdb()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.POSTGRES_VARIABLE, database)
        patch.setenv(addresses.REDIS_VARIABLE, redis_url)
        patch.chdir(repo_root)
        config: RepoConfig = load_repo_config(repo_root, repo_root / "feature_store.yaml")
        apply_total(config, repo_root, skip_source_validation=True)
        yield FeatureStore(config=config)


def watch(
    database: str,
    users: int,
    items: int,
    events: int,
    at: datetime,
    *,
    user: str = "{}",
    item: str = "{}",
) -> None:
    """A history up to ``at``, an event every 7 minutes; item i is of genre i % 4.

    ``user``, ``item``: SQL of an id, with ``{}`` for its number.
    """
    genres = ["drama", "comedy", "thriller", "western"]
    with connect(database) as conn:
        conn.execute(
            "INSERT INTO items (item_id, genre, valid_from, ingested_at) "
            f"SELECT {item.format('i')}, (%(genres)s::text[])[1 + i %% 4], %(old)s, %(old)s "
            "FROM generate_series(1, %(items)s) AS i",
            {"genres": genres, "old": at - timedelta(days=90), "items": items},
        )
        conn.execute(
            "INSERT INTO genres (genre, embedding, ingested_at) "
            "SELECT g, (SELECT array_agg((ascii(g) + d)::real / 200) "
            "FROM generate_series(1, 32) AS d), "
            "%(old)s FROM unnest(%(genres)s::text[]) AS g ON CONFLICT DO NOTHING",
            {"genres": genres, "old": at - timedelta(days=90)},
        )
        conn.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
            f"SELECT %(run)s || n, {user.format('(1 + n %% %(users)s)')}, "
            f"{item.format('(1 + n * 7 %% %(items)s)')}, t, t, "
            "60000 * (n %% 50), "
            "(n %% 101) / 100.0 FROM (SELECT n, %(at)s::timestamptz - n * %(gap)s::interval AS t "
            "FROM generate_series(1, %(events)s) AS n) AS e",
            {
                "run": uuid.uuid4().hex,
                "users": users,
                "items": items,
                "events": events,
                "at": at,
                "gap": timedelta(minutes=7),
            },
        )
