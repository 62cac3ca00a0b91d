"""Views of a user's own, over a table that knows nothing of our conventions."""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureView, Field, PushSource, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)

# A table that knows nothing of our conventions: its own names for times, odd types, no index.
OWN = """
CREATE TABLE own (
    account text, "at" timestamp, loaded timestamp, "Spent" numeric(10, 3), small smallint,
    narrow integer, wide bigint, "single" real, "double" double precision, yes boolean,
    words varchar(20), raw bytea, moment timestamptz, day date, ident uuid, doc jsonb,
    vector double precision[], longs bigint[], texts text[], flags boolean[]
);
INSERT INTO own SELECT 'a' || g % 300, t, t + interval '3 seconds', g / 8.0, g % 1000,
    CASE WHEN g % 5 > 0 THEN g END, CASE WHEN g % 7 > 0 THEN g * 1000000 END, g / 3.0, g / 3.0,
    CASE WHEN g % 3 > 0 THEN g % 2 = 0 END, CASE WHEN g % 4 > 0 THEN repeat('ü', g % 9) END,
    int4send(g), t, t::date, gen_random_uuid(), '{"a": 1}',
    array_fill(g / 3.0, ARRAY[1 + g % 3]), ARRAY[g, -g], ARRAY['x', 'y' || g], ARRAY[true, false]
FROM (SELECT g, timestamp '2026-02-01' + g * interval '1 minute' AS t
      FROM generate_series(1, 700) AS g) AS s;
CREATE TABLE everyone (event_timestamp timestamptz, total bigint);
INSERT INTO everyone VALUES ('2026-02-01Z', 1), ('2026-02-02Z', 2);
"""

account = Entity(name="account", join_keys=["account"], value_type=ValueType.STRING)
buyer = Entity(name="buyer", join_keys=["buyer"], value_type=ValueType.STRING)


def source(name: str, **settings: Any) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=name,
        **{"timestamp_field": "at", "created_timestamp_column": "loaded"} | settings,
    )


def own(name: str, schema: dict[str, Any], of: Any = None, **settings: Any) -> FeatureView:
    """A user's own view of the table ``own``."""
    return FeatureView(
        name=name,
        schema=[Field(name=key, dtype=dtype) for key, dtype in schema.items()],
        source=of or source(name, table="own"),
        **{"entities": [account], "ttl": timedelta(0)} | settings,
    )


KEY = {"account": String}
WIDE = KEY | {"wide": Int64}
IN_COLUMNS = {
    "small": Int32, "narrow": Int32, "wide": Int64, "single": Float32, "double": Float64,
    "yes": Bool, "words": String, "raw": Bytes, "moment": UnixTimestamp,
    "vector": Array(Float64), "longs": Array(Int64), "texts": Array(String), "flags": Array(Bool),
}  # fmt: skip
AS_FEAST_CONVERTS = {
    "Spent": Float64, "wide": Float32, "vector": Array(Float32),
}  # fmt: skip
RENAMED = {"account": "buyer", "Spent": "spent", "wide": "volume"}
own_views = [
    own("columns", KEY | IN_COLUMNS),
    own("converted", KEY | AS_FEAST_CONVERTS),
    own("narrowed", KEY | {"double": Float32, "vector": Array(Float32), "narrow": Int64}),
    own(
        "renamed",
        {"buyer": String, "spent": Float64, "volume": Int64},
        source("renamed", table="own", field_mapping=RENAMED),
        entities=[buyer],
    ),
    own(
        "asked",
        WIDE,
        source("asked", query='SELECT account, wide, "at", loaded FROM own WHERE wide > 0'),
    ),
    own("undated", WIDE, source("undated", table="own", created_timestamp_column="")),
    own("pushed", WIDE, PushSource(name="p", batch_source=source("b", table="own"))),
    own("precise", KEY | {"Spent": Decimal, "ident": String, "doc": String}),
    own("shrinking", KEY | {"wide": Int64, "small": Int32}, version="v1"),
    own("expiring", WIDE, ttl=timedelta(days=3650)),
    own(
        "everyone",
        {"total": Int64},
        source("everyone", table="everyone", timestamp_field="event_timestamp",
               created_timestamp_column=""),
        entities=[],
    ),
]  # fmt: skip
