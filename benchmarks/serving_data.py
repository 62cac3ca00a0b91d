"""The same features in Redis for both sides, and a stock Feast repository to serve them."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
from feast.utils import _convert_arrow_to_proto

from extensions.addresses import PostgresAddress, connection_string_of
from extensions.stores.online.store import SkewlessRedisOnlineStore

GENRES = ["drama", "comedy", "thriller", "documentary", "western"]


@dataclass(frozen=True)
class Data:
    """How many entities there are; every user has watched every tenth item."""

    users: int
    items: int

    def tables(self, seed: int = 7) -> dict[str, pa.Table]:
        """The rows of every view."""
        rng = np.random.default_rng(seed)
        users, items = np.arange(1, self.users + 1), np.arange(1, self.items + 1)
        vectors = pa.array(rng.random(self.users * 32, np.float32))
        watched = items[items % 10 == 0]
        pairs = len(watched) * self.users
        real = np.float32
        return {
            "user_watch_stats": _table(
                user_id=users, user_watch_count_7d=rng.integers(0, 90, self.users)
            ),
            "user_preferences": _table(
                user_id=users,
                user_genre_preferences=pa.FixedSizeListArray.from_arrays(vectors, 32),
            ),
            "user_habits": _table(
                user_id=users,
                user_avg_watch_duration_min=rng.random(self.users, real) * 60,
                user_preferred_hour=rng.integers(0, 24, self.users),
            ),
            "item_stats": _table(item_id=items, item_popularity_score=rng.random(self.items, real)),
            "item_profile": _table(
                item_id=items, item_genre=[GENRES[i % len(GENRES)] for i in items]
            ),
            "user_item_progress": _table(
                user_id=np.repeat(users, len(watched)),
                item_id=np.tile(watched, self.users),
                user_item_watch_progress=rng.random(pairs, real),
            ),
        }


def fill(repo: Path, stock: Path, data: Data) -> None:
    """Apply both repositories and write the same rows through each one's online store."""
    store = FeatureStore(config=_applied(repo))
    online = store._get_provider().online_store  # noqa: SLF001
    assert isinstance(online, SkewlessRedisOnlineStore)
    # Two repositories of one name of package: the stock one is applied by a process of its own.
    feast = str(Path(sys.executable).with_name("feast"))
    apply = [feast, "apply", "--skip-source-validation"]
    done = subprocess.run(
        apply, cwd=stock, env=stock_environment(stock), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    other = FeatureStore(repo_path=str(stock))
    theirs = other._get_provider().online_store  # noqa: SLF001
    for name, table in data.tables().items():
        online.write_arrow(store.config, store.get_feature_view(name), table)
        view = other.get_feature_view(name)
        keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
        rows: Any = _convert_arrow_to_proto(table.combine_chunks(), view, keys)
        theirs.online_write_batch(other.config, view, rows, None)


def stock_repository(repo: Path, folder: Path, postgres: str, redis: str) -> Path:
    """A copy of the definitions with Feast's own stores, in their newest unversioned form."""
    folder.mkdir()
    package = folder / "feature_repo"
    shutil.copytree(repo / "feature_repo", package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in package.glob("*.py"):
        path.write_text(re.sub(r'\n    version="v\d+",', "", path.read_text()))
    address = PostgresAddress.parse(postgres)
    (folder / "feature_store.yaml").write_text(
        f"""project: skewless
provider: local
entity_key_serialization_version: 3
registry: registry.db
online_store:
  type: redis
  connection_string: {connection_string_of(redis)}
offline_store:
  type: postgres
  host: {address.host}
  port: {address.port}
  database: {address.database}
  user: {address.user}
  password: {address.password}
  sslmode: disable
"""
    )
    return folder


def stock_environment(stock: Path) -> dict[str, str]:
    """Ours, but the stock copy of the definitions is the one that Python finds first."""
    return {**os.environ, "PYTHONPATH": str(stock)}


def _applied(repo: Path) -> Any:
    config = load_repo_config(repo, repo / "feature_store.yaml")
    apply_total(config, repo, skip_source_validation=True)
    return config


def _table(**columns: Any) -> pa.Table:
    n = len(next(iter(columns.values())))
    now = pa.array([datetime.now(UTC)] * n, pa.timestamp("us", "UTC"))
    return pa.table({**columns, "event_timestamp": now, "created_timestamp": now})
