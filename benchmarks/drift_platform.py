"""A made service: its training set, and windows of live rows of any kind of drift.

Seven features of three views as the benchmarks use them, drawn with numpy; rows go straight
into ``served_features``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from feast.types import Bool, FeastType, Int32, Int64, UnixTimestamp

from extensions.database import connect_arrow
from extensions.stores.offline.writes import serving_log_table
from monitoring.baseline import Baseline, Feature, baseline_of
from monitoring.checks.serving_log_window import Window

SERVICE = "made"
START = datetime(2026, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
GENRES = {"drama": 0.35, "comedy": 0.25, "thriller": 0.2, "western": 0.15, "noir": 0.05}
DIMENSIONS = 32

FEATURES = (
    Feature("user_stats", "count", "INT64", 1, ("user_id",)),
    Feature("user_stats", "mean_minutes", "FLOAT", 1, ("user_id",)),
    Feature("user_stats", "hour", "INT64", 1, ("user_id",)),
    Feature("user_taste", "taste", "FLOAT_LIST", 1, ("user_id",)),
    Feature("item_stats", "popularity", "FLOAT", 1, ("item_id",)),
    Feature("item_stats", "genre", "STRING", 1, ("item_id",)),
    Feature("item_stats", "score", "DOUBLE", 1, ("item_id",)),
)
VIEWS = ("user_stats", "user_taste", "item_stats")


@dataclass(frozen=True)
class World:
    """What rows are drawn from; `replace` a field to make it drift."""

    score_mean: float = 10.0
    count_factor: float = 1.0
    score_sd: float = 2.0
    genres: Mapping[str, float] = field(default_factory=lambda: dict(GENRES))
    nulls: float = 0.0
    dead_dimension: int | None = None
    rotation: bool = False
    stale: float = 0.0
    defaults: float = 0.02


STATIONARY = World()
# How far each user's own vector moves from week to week while the population stays what it is.
WOBBLE = 0.3
DRIFTS = {
    "mean +10 %": replace(STATIONARY, score_mean=11.0),
    "count +25 %": replace(STATIONARY, count_factor=1.25),
    "sd x 1.5": replace(STATIONARY, score_sd=3.0),
    "drama -> unknown": replace(
        STATIONARY, genres={**{k: v for k, v in GENRES.items() if k != "drama"}, "unknown": 0.35}
    ),
    "nulls 0 -> 5 %": replace(STATIONARY, nulls=0.05),
    "one dimension dead": replace(STATIONARY, dead_dimension=5),
    "embedding rotated": replace(STATIONARY, rotation=True),
}


def draw(world: World, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """``n`` rows, one column per feature, and the users whose tastes they are."""
    users = rng.integers(0, 5_000, n)
    watches = rng.negative_binomial(2.0, 2.0 / (2.0 + 8.0 * world.count_factor), n)
    score = rng.normal(world.score_mean, world.score_sd, n)
    names = list(world.genres)
    shares = np.array(list(world.genres.values()))
    return {
        "user_id": users,
        "item_id": rng.integers(0, 2_000, n),
        "count": np.where(rng.random(n) < 0.3, 0, watches),
        "mean_minutes": rng.gamma(4.0, 8.0, n).astype(np.float32),
        "hour": rng.choice(24, n, p=_HOURS),
        "taste": tastes(users, world),
        "popularity": np.minimum(1, rng.pareto(1.5, n) / 50).astype(np.float32),
        "genre": rng.choice(names, n, p=shares / shares.sum()),
        "score": np.where(rng.random(n) < world.nulls, np.nan, score),
    }


def tastes(users: Any, world: World) -> Any:
    """Each user's own vector, isotropic over users: (n, dimensions), float32."""
    return shaped(_TASTES[users], world)


def shaped(vectors: Any, world: World) -> Any:
    """What a world's encoder makes of vectors."""
    if world.rotation:
        vectors = vectors @ _ROTATION
    if world.dead_dimension is not None:
        vectors = vectors.copy()
        vectors[:, world.dead_dimension] = 0
    return vectors.astype(np.float32)


def moved(vectors: Any, rng: np.random.Generator) -> Any:
    """The same entities' vectors some weeks later: each a little elsewhere, all spread alike."""
    steps = rng.normal(size=vectors.shape)
    return np.sqrt(1 - WOBBLE**2) * vectors + WOBBLE * steps


def flags(world: World, n: int, rng: np.random.Generator) -> dict[str, tuple[Any, Any]]:
    """By view: which of ``n`` rows are defaults, and which are stale."""
    return {view: (rng.random(n) < world.defaults, rng.random(n) < world.stale) for view in VIEWS}


_RNG = np.random.default_rng(7)
_HOURS = np.exp(-(((np.arange(24) - 20) / 4.0) ** 2)) + 0.05
_HOURS /= _HOURS.sum()
_TASTES = _RNG.normal(size=(5_000, DIMENSIONS))
_ROTATION = np.linalg.qr(_RNG.normal(size=(DIMENSIONS, DIMENSIONS)))[0]


def table_of(columns: Mapping[str, Any]) -> pa.Table:
    """As a training set: nulls for NaN, vectors as lists."""
    arrays = {}
    for name, values in columns.items():
        if name == "taste":
            flat = pa.array(values.reshape(-1))
            arrays[name] = pa.ListArray.from_arrays(
                pa.array(np.arange(0, len(flat) + 1, values.shape[1], dtype=np.int32)), flat
            )
        else:
            arrays[name] = pa.array(values, from_pandas=True)
    return pa.table(arrays)


def baseline(rows: int = 10_000, seed: int = 1) -> Baseline:
    """A training set's."""
    columns = draw(STATIONARY, rows, np.random.default_rng(seed))
    rates = {"count": 0.02, "taste": 0.02, "popularity": 0.02}
    return baseline_of(
        SERVICE, dict.fromkeys(VIEWS, 1), "none", table_of(columns), list(FEATURES), rates
    )


def serve(
    conn: psycopg.Connection,
    url: str,
    world: World,
    n: int,
    hour: int,
    seed: int,
    service: str = SERVICE,
) -> None:
    """Log ``n`` requests of one row each in the hour of that number."""
    rng = np.random.default_rng(seed)
    columns = draw(world, n, rng)
    at = np.datetime64(START.replace(tzinfo=None), "us") + np.timedelta64(hour, "h")
    moments = at + np.sort(rng.integers(0, 3_600_000_000, n)).astype("timedelta64[us]")
    held = {
        "served_at": pa.array(moments, pa.timestamp("us", "UTC")),
        "service": pa.array([service] * n),
        "request_id": pa.array(rng.integers(-(1 << 62), 1 << 62, n)),
        "row_number": pa.array(np.zeros(n, np.int32)),
        "user_id": pa.array(columns["user_id"]),
        "item_id": pa.array(columns["item_id"]),
    }
    types: dict[str, FeastType] = {"user_id": Int64, "item_id": Int64}
    for view, (default, stale) in flags(world, n, rng).items():
        held[f"{view}__version"] = pa.array(np.ones(n, np.int32))
        held[f"{view}__as_of"] = pa.array(moments, pa.timestamp("us", "UTC"), mask=default)
        held[f"{view}__stale"] = pa.array(stale)
        types |= {
            f"{view}__version": Int32, f"{view}__as_of": UnixTimestamp, f"{view}__stale": Bool,
        }  # fmt: skip
    rows = table_of(columns)
    for feature in FEATURES:
        held[f"{feature.view}__{feature.name}"] = rows[feature.name]
        types[f"{feature.view}__{feature.name}"] = feature.type
    serving_log_table.ensure_columns(conn, types)
    serving_log_table.ensure_partitions(conn, START, START + timedelta(hours=hour + 1))
    with connect_arrow(url) as arrow:
        serving_log_table.append_rows(arrow, pa.table(held))


def log_tastes(conn: psycopg.Connection, world: World, hour: int) -> None:
    """The log of the taste view: every anchor's vector as of that hour."""
    conn.execute(
        "CREATE TABLE IF NOT EXISTS user_taste_v1 (user_id bigint, event_timestamp timestamptz, "
        "created_timestamp timestamptz, taste real[])"
    )
    at = START + timedelta(hours=hour)
    vectors = tastes(np.arange(5_000), world)
    with conn.cursor() as cursor, cursor.copy("COPY user_taste_v1 FROM STDIN") as copy:
        for user, vector in enumerate(vectors):
            text = "{" + ",".join(repr(float(one)) for one in vector) + "}"
            copy.write_row([user, at, at, text])


def many_features(rows: int = 10_000) -> tuple[Baseline, list[Feature]]:
    """A service of 20 features, and its baseline: 14 numbers, 5 categories, one embedding."""
    features = [
        Feature(f"wide_{place % 3}", f"{one.name}_{place}", one.dtype, 1, one.keys)
        for place, one in enumerate(_MANY)
    ]
    columns = _many(features, rows, np.random.default_rng(1))
    views = dict.fromkeys((f.view for f in features), 1)
    table = _table(features, columns)
    for key, values in _keys(rows, np.random.default_rng(3)).items():
        table = table.append_column(key, values)
    base = baseline_of("wide", views, "none", table, features, {})
    return base, features


def serve_many(conn: psycopg.Connection, url: str, features: list[Feature], rows: int) -> Window:
    """Log ``rows`` requests of the wide service in one hour; one feature of it drifts."""
    views = list(dict.fromkeys(f.view for f in features))
    types: dict[str, FeastType] = {f"{f.view}__{f.name}": f.type for f in features}
    types |= {"user_id": Int64, "item_id": Int64}
    for view in views:
        types |= {
            f"{view}__version": Int32, f"{view}__as_of": UnixTimestamp, f"{view}__stale": Bool,
        }  # fmt: skip
    serving_log_table.ensure_columns(conn, types)
    serving_log_table.ensure_partitions(conn, START, START + HOUR)
    rng = np.random.default_rng(2)
    start = np.datetime64(START.replace(tzinfo=None), "us")
    for n in (100_000,) * (rows // 100_000):
        moments = start + rng.integers(0, 3_600_000_000, n).astype("timedelta64[us]")
        held = {
            "served_at": pa.array(moments, pa.timestamp("us", "UTC")),
            "service": pa.array(["wide"] * n),
            "request_id": pa.array(rng.integers(-(1 << 62), 1 << 62, n)),
            "row_number": pa.array(np.zeros(n, np.int32)),
            **_keys(n, rng),
        }
        for view in views:
            held[f"{view}__version"] = pa.array(np.ones(n, np.int32))
            held[f"{view}__as_of"] = pa.array(moments, pa.timestamp("us", "UTC"))
            held[f"{view}__stale"] = pa.array(np.zeros(n, np.bool_))
        table = _table(features, _many(features, n, rng, DRIFTS["sd x 1.5"]))
        for f in features:
            held[f"{f.view}__{f.name}"] = table[f.name]
        with connect_arrow(url) as arrow:
            serving_log_table.append_rows(arrow, pa.table(held))
    return Window("wide", START, START + HOUR)


_NUMBERS = [
    f for f in FEATURES if f.name in ("count", "mean_minutes", "hour", "popularity", "score")
]
_OTHERS = [f for f in FEATURES if f.name in ("genre", "taste")]
# Of every third feature, from the second on, this is the only one whose spread can change.
WIDE_DRIFTS = "wide_1:score_4"
_MANY = (_NUMBERS * 3)[:14] + [_OTHERS[1]] * 5 + [_OTHERS[0]]


def _many(
    features: list[Feature], n: int, rng: np.random.Generator, second: World = STATIONARY
) -> dict[str, Any]:
    drawn = [draw(world, n, rng) for world in (STATIONARY, second, STATIONARY)]
    return {f.name: drawn[place % 3][f.name.rpartition("_")[0]] for place, f in enumerate(features)}


def _keys(n: int, rng: np.random.Generator) -> dict[str, pa.Array]:
    """Who is asked for; the values are drawn for each row."""
    return {
        "user_id": pa.array(rng.integers(0, 200_000, n)),
        "item_id": pa.array(rng.integers(0, 2_000, n)),
    }


def _table(features: list[Feature], columns: Mapping[str, Any]) -> pa.Table:
    arrays = {}
    for f in features:
        kind = f.name.rpartition("_")[0]
        arrays[f.name] = table_of({kind: columns[f.name]})[kind]
    return pa.table(arrays)
