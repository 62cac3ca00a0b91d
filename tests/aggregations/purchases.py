"""A table of purchases with a column of each type, its rows, and views over it by declaration."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from feast import Aggregation, BatchFeatureView, Entity, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_contents import RepoContents
from feast.types import (
    Array,
    Bool,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)

from extensions.asof import Computation
from extensions.asof.aggregations.completion import complete_contents
from extensions.asof.computation_loading import computations_in
from tests.aggregations.oracle import Row, WantedView

START = datetime(2026, 3, 1, tzinfo=UTC)
TABLE = """
CREATE TABLE purchases (
    order_id text NOT NULL, user_id bigint NOT NULL,
    bought_at timestamptz NOT NULL, known_at timestamptz NOT NULL,
    pieces smallint, cents bigint, price double precision, rating real, cost numeric,
    sku text, gift boolean, due_at timestamptz
)
"""
COLUMNS = (
    "order_id", "user_id", "bought_at", "known_at", "pieces", "cents", "price", "rating", "cost",
    "sku", "gift", "due_at",
)  # fmt: skip
# The filters that are drawn: the SQL, and the same in Python. A null is not met.
FILTERS = {
    "gift": lambda row: row["gift"] is True,
    "NOT gift": lambda row: row["gift"] is False,
    "sku <> 'b' AND (pieces > 2\n OR cents IS NULL)": lambda row: (
        row["sku"] not in (None, "b")
        and ((row["pieces"] is not None and row["pieces"] > 2) or row["cents"] is None)
    ),
    "date_part('hour', bought_at AT TIME ZONE 'UTC') < 12": lambda row: row["bought_at"].hour < 12,
}
DTYPES: dict[str, FeastType] = {
    "Int32": Int32, "Int64": Int64, "Float32": Float32, "Float64": Float64, "String": String,
    "Bool": Bool, "UnixTimestamp": UnixTimestamp,
}  # fmt: skip
DTYPES |= {f"[{name}]": Array(kind) for name, kind in DTYPES.items()}

buyer = Entity(name="buyer", join_keys=["user_id"], value_type=ValueType.INT64)


def source(*, has_id: bool = True) -> PostgreSQLSource:
    return PostgreSQLSource(
        name="purchases",
        table="purchases",
        timestamp_field="bought_at",
        created_timestamp_column="known_at",
        tags={"keys": "user_id", **({"id": "order_id"} if has_id else {})},
    )


def view(
    fields: Iterable[Field],
    aggregations: Iterable[Aggregation],
    tags: dict[str, str] | None = None,
    *,
    has_id: bool = True,
    **more: Any,
) -> BatchFeatureView:
    return BatchFeatureView(
        **{
            "name": "buying",
            "version": "v1",
            "entities": [buyer],
            "source": source(has_id=has_id),
            "online": True,
            "schema": list(fields),
            "aggregations": list(aggregations),
            "tags": {"freshness": "hourly", **(tags or {})},
            **more,
        }
    )


def contents(*views: BatchFeatureView) -> RepoContents:
    sources = {each.batch_source.name: each.batch_source for each in views}
    return complete_contents(
        RepoContents(
            projects=[], data_sources=list(sources.values()), entities=[buyer],
            feature_services=[], feature_views=list(views), on_demand_feature_views=[],
            stream_feature_views=[], permissions=[], label_views=[],
        )
    )  # fmt: skip


def computation_of(made: BatchFeatureView, root: Path = Path("/nonexistent")) -> Computation:
    [computation] = computations_in(contents(made), root).values()
    return computation


def declared(wanted: WantedView, filters: dict[str, str], freshness: str = "hourly") -> Computation:
    """The computation of a view as `WantedView` describes it; ``filters``: by feature, "" all."""
    fields, aggregations = [], []
    for each in wanted.features:
        tags = {"default": _json(each.default)}
        if each.name in filters:
            tags["filter"] = filters[each.name]
        if each.limit:
            tags["limit"] = str(each.limit)
        if each.divide_by:
            tags["divide_by"] = str(each.divide_by)
        if each.half_life:
            tags["half_life"] = f"{int(each.half_life.total_seconds())} seconds"
        fields.append(Field(name=each.name, dtype=DTYPES[each.dtype], tags=tags))
        aggregations.append(
            Aggregation(
                column=each.column,
                function=each.function,
                time_window=each.window,
                name=each.name,
            )
        )
    tags = {"freshness": freshness, **({"filter": filters[""]} if "" in filters else {})}
    return computation_of(view(fields, aggregations, tags, has_id=wanted.has_id))


def store(conn: psycopg.Connection, rows: Iterable[Row]) -> None:
    with conn.cursor().copy(f"COPY purchases ({', '.join(COLUMNS)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([row[column] for column in COLUMNS])


def purchase(number: int, **values: Any) -> Row:
    """A row that arrived as it happened, with nothing in it unless ``values`` say so."""
    at = values.get("bought_at", START)
    plain = dict.fromkeys(COLUMNS) | {
        "order_id": f"o{number}", "user_id": 1, "bought_at": at, "known_at": at,
    }  # fmt: skip
    return plain | values


def _json(default: Any) -> str:
    if isinstance(default, datetime):
        return str(int(default.timestamp()))
    if isinstance(default, tuple):
        return "[" + ", ".join(map(_json, default)) + "]"
    if isinstance(default, str):
        return f'"{default}"'
    return str(default).lower() if isinstance(default, bool) else str(default)
