"""Feature views, entity keys and values to write, made by hand or by Hypothesis."""

from datetime import UTC, datetime, timedelta
from typing import Any

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types import Value_pb2 as pb
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.types import from_value_type
from hypothesis import strategies as st

from extensions.stores.online_codec.column_format import encode_message

T0 = datetime(2026, 1, 1, tzinfo=UTC)

SCALARS = {
    ValueType.BYTES: ("bytes_val", st.binary(max_size=80)),
    ValueType.STRING: ("string_val", st.text(max_size=40)),
    ValueType.INT32: ("int32_val", st.integers(-(2**31), 2**31 - 1)),
    ValueType.INT64: ("int64_val", st.integers(-(2**63), 2**63 - 1)),
    ValueType.DOUBLE: ("double_val", st.floats(width=64)),
    ValueType.FLOAT: ("float_val", st.floats(width=32)),
    ValueType.BOOL: ("bool_val", st.booleans()),
    ValueType.UNIX_TIMESTAMP: ("unix_timestamp_val", st.integers(-(2**62), 2**62)),
    ValueType.JSON: ("json_val", st.just('{"a": [1, null]}')),
    ValueType.UUID: ("uuid_val", st.uuids().map(str)),
    ValueType.TIME_UUID: ("time_uuid_val", st.uuids().map(str)),
    ValueType.DECIMAL: ("decimal_val", st.decimals(allow_nan=False).map(str)),
}
LISTS = {
    ValueType.BYTES_LIST: ("bytes_list_val", pb.BytesList, ValueType.BYTES),
    ValueType.STRING_LIST: ("string_list_val", pb.StringList, ValueType.STRING),
    ValueType.INT32_LIST: ("int32_list_val", pb.Int32List, ValueType.INT32),
    ValueType.INT64_LIST: ("int64_list_val", pb.Int64List, ValueType.INT64),
    ValueType.DOUBLE_LIST: ("double_list_val", pb.DoubleList, ValueType.DOUBLE),
    ValueType.FLOAT_LIST: ("float_list_val", pb.FloatList, ValueType.FLOAT),
    ValueType.BOOL_LIST: ("bool_list_val", pb.BoolList, ValueType.BOOL),
    ValueType.UNIX_TIMESTAMP_LIST: ("unix_timestamp_list_val", pb.Int64List, ValueType.INT64),
    ValueType.BYTES_SET: ("bytes_set_val", pb.BytesSet, ValueType.BYTES),
    ValueType.STRING_SET: ("string_set_val", pb.StringSet, ValueType.STRING),
    ValueType.INT64_SET: ("int64_set_val", pb.Int64Set, ValueType.INT64),
    ValueType.JSON_LIST: ("json_list_val", pb.StringList, ValueType.JSON),
    ValueType.UUID_LIST: ("uuid_list_val", pb.StringList, ValueType.UUID),
    ValueType.DECIMAL_LIST: ("decimal_list_val", pb.StringList, ValueType.DECIMAL),
}
TYPES = [*SCALARS, *LISTS, ValueType.MAP]


def value_of(kind: ValueType) -> st.SearchStrategy[pb.Value]:
    """Values of one Feast type."""
    if kind in SCALARS:
        name, content = SCALARS[kind]
        return content.map(lambda one: pb.Value(**{name: one}))
    if kind in LISTS:
        name, message, item = LISTS[kind]
        items = st.lists(SCALARS[item][1], max_size=5)
        return items.map(lambda many: pb.Value(**{name: message(val=many)}))
    entries = st.dictionaries(st.text(max_size=5), value_of(ValueType.INT64), max_size=3)
    return entries.map(lambda one: pb.Value(map_val=pb.Map(val=one)))


MOMENTS = st.datetimes(
    min_value=datetime(1700, 1, 1),  # noqa: DTZ001 - Hypothesis wants naive bounds
    max_value=datetime(3500, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


# What a store accepts: nothing from the future.
PAST = st.datetimes(
    min_value=datetime(1700, 1, 1),  # noqa: DTZ001
    max_value=datetime(2026, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@st.composite
def created_after(draw: Any, event: datetime, times: Any = MOMENTS) -> datetime | None:
    """Nothing, the event itself, a moment close by, or any other."""
    return draw(
        st.one_of(
            st.none(),
            st.just(event),
            st.integers(-100, 20_000_000).map(lambda us: event + timedelta(microseconds=us)),
            times,
        )
    )


def view(
    name: str = "stats",
    features: dict[str, ValueType] | None = None,
    entities: dict[str, ValueType] | None = None,
    **settings: Any,
) -> FeatureView:
    """A feature view as the registry would return it."""
    entities = entities or {"user_id": ValueType.INT64}
    made = FeatureView(
        name=name,
        entities=[Entity(name=key, join_keys=[key], value_type=t) for key, t in entities.items()],
        schema=[
            *(Field(name=k, dtype=from_value_type(t)) for k, t in entities.items()),
            *(
                Field(name=k, dtype=from_value_type(t))
                for k, t in (features or {"count": ValueType.INT64}).items()
            ),
        ],
        source=FileSource(
            name=f"{name}_source",
            path="/dev/null",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        **{"ttl": timedelta(0), **settings},
    )
    made.entity_columns = [Field(name=k, dtype=from_value_type(t)) for k, t in entities.items()]
    made.features = [field for field in made.schema if field.name not in entities]
    return made


def key(**ids: Any) -> EntityKey:
    """An entity key of ints and texts."""
    return EntityKey(
        join_keys=list(ids),
        entity_values=[
            pb.Value(int64_val=one) if isinstance(one, int) else pb.Value(string_val=one)
            for one in ids.values()
        ],
    )


def same(left: pb.Value, right: pb.Value) -> bool:
    """Equal to the last bit; NaN is itself, zero has no sign, and a set has no order."""
    one, other = (pb.Value.FromString(encode_message(each)) for each in (left, right))
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
