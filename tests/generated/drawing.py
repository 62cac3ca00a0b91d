"""A repository drawn by lot: tables, streams, views, and what its columns and ids may hold."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2

TEXTS = [
    "", " ", "a", "A", "a ", " a", "a\t", "á", "a\u0301", "ﬁ", "fi", "İ", "i̇", "ß", "ss", "Ω", "Ω",
    "1", "01", "1.0", "+1", "1e0", "-0", "0", "null", "NULL", "None", "nan", "NaN", "true", "\\N",
    "{}", "[]", '"', "'", "\\", "\\\\", "%", "%2F", "/", "a/b", "..", "?", "#", "a:b", "a,b", "a|b",
    "\u200b", "\u202e", "\ufeff", "\ud7ff", "\ue000", "\ufffd", "\U0001f600", "\U0010ffff", "日本",
    "\x01", "\x7f", "\r\n", "\n", "x" * 800, "x" * 799 + "y", "é" * 400, "e\u0301" * 250, "$(id)",
    "'; DROP TABLE t; --", "a" * 255, "a" * 256, "2026-01-01",
    "00000000-0000-0000-0000-000000000000",
]  # fmt: skip
_SMALL = [0, 1, -1, 7, 10, 42]
_INT32 = [*_SMALL, 2**31 - 1, -(2**31), 2**31 - 2]
_INT64 = [*_INT32, 2**63 - 1, -(2**63), 2**53, 2**53 + 1, -(2**53) - 1, 2**32, 2**32 + 1]
_DOUBLES = [0.1, 1e-300, -1.5, 1.7e308, 2.0**53, 1 / 3, 5e-324, 0.0, 123456.789]
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Kind:
    """A type of column and the feature of its last value.

    Attributes:
        pg_type: The column's.
        dtype: The feature's, as Feast's Python has it.
        default: The feature's, as JSON.
        draw: A value as its message has it.
        held: What the feature is, of the message's value.
        cast: SQL of the feature, of the column ``{}``.
        made: What follows the name of a type of its own (``CREATE`` comes before it).
        avro: The type in Avro's schema.
    """

    pg_type: str
    dtype: str
    default: str
    draw: Callable[[Random], Any]
    held: Callable[[Any], Any] = lambda value: value
    cast: str = "{}"
    made: str = ""
    avro: Any = "string"


def _uuid(rng: Random) -> str:
    near = ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
    return rng.choice([*near, str(uuid.UUID(int=rng.getrandbits(128)))])


def _time(rng: Random) -> str:
    found = _EPOCH + timedelta(microseconds=rng.randrange(10**15))
    return found.astimezone(UTC).isoformat()


def _several(draw: Callable[[Random], Any]) -> Callable[[Random], list[Any]]:
    return lambda rng: [draw(rng) for _ in range(rng.randrange(4))]


def _text(rng: Random) -> str:
    return rng.choice(TEXTS)


KINDS = (
    Kind("text", "String", '"none"', _text),
    Kind("varchar(900)", "String", '""', _text),
    Kind("integer", "Int32", "-5", lambda rng: rng.choice(_INT32), avro="int"),
    Kind("bigint", "Int64", "-5", lambda rng: rng.choice(_INT64), avro="long"),
    Kind("smallint", "Int32", "3", lambda rng: rng.choice([-32768, 32767, 0]), cast="{}::integer",
         avro="int"),
    Kind("double precision", "Float64", "0.5", lambda rng: rng.choice(_DOUBLES), avro="double"),
    Kind("real", "Float32", "0.5", lambda rng: rng.choice([0.1, 1.5, 16777217.5, -3e38]),
         lambda value: float(np.float32(value)), avro="float"),
    Kind("boolean", "Bool", "true", lambda rng: rng.random() < 0.5, avro="boolean"),
    Kind("timestamptz", "UnixTimestamp", '"2020-01-01T00:00:00Z"', _time, datetime.fromisoformat),
    Kind("uuid", "Uuid", f'"{NOBODY}"', _uuid),
    Kind("numeric", "String", '"-"', lambda rng: rng.choice(["0.10", "1e3", "-12.50", "9" * 40]),
         lambda text: {"1e3": "1000"}.get(text, text), "{}::text"),
    Kind("date", "String", '"-"', lambda rng: date(2000 + rng.randrange(60), 2, 28).isoformat(),
         cast="{}::text"),
    Kind("text[]", "Array(String)", "[]", _several(_text),
         avro={"type": "array", "items": "string"}),
    Kind("bigint[]", "Array(Int64)", "[]", _several(lambda rng: rng.choice(_INT64)),
         avro={"type": "array", "items": "long"}),
    Kind("boolean[]", "Array(Bool)", "[true]", _several(lambda rng: rng.random() < 0.5),
         avro={"type": "array", "items": "boolean"}),
    Kind("integer", "Int32", "-5", lambda rng: rng.choice(_INT32), avro="int",
         made="DOMAIN {} AS integer CHECK (VALUE <> 99)"),
    Kind("varchar(20)", "String", '"none"', lambda rng: rng.choice(["", " ", "é", "x" * 20]),
         made='DOMAIN {} AS varchar(20) COLLATE "C" CHECK (VALUE <> \'bad\')', cast="{}::text"),
    Kind("enum", "String", '"none"', lambda rng: rng.choice(["low", "High", "e\u0301"]),
         made="TYPE {} AS ENUM ('low', 'High', 'e\u0301')", cast="{}::text"),
)  # fmt: skip


@dataclass(frozen=True)
class KeyKind:
    """A type of id: Feast's name of it, the column's type, and ids, look-alikes among them."""

    value_type: str
    pg_type: str
    ids: Callable[[Random], list[Any]]


def _uuids(rng: Random) -> list[Any]:
    some = [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(6)]
    return [NOBODY, "ffffffff-ffff-ffff-ffff-ffffffffffff", some[0][:-1] + "0", *some]


FORMS = ("json", "avro", "protobuf", "debezium")
KEY_KINDS = (
    KeyKind("STRING", 'text COLLATE "C"', lambda _: list(TEXTS)),
    KeyKind("UUID", "uuid", _uuids),
    KeyKind("INT32", "integer", lambda _: list(_INT32)),
    KeyKind("INT64", "bigint", lambda _: list(_INT64)),
)


@dataclass(frozen=True)
class Column:
    """A column, the message's field for it, and the feature of its last value."""

    name: str
    field: str
    kind: Kind
    nullable: bool


@dataclass(frozen=True)
class Platform:
    """One table with its stream, its view and its service, all of one name.

    ``keys`` and ``fields`` are of equal length: key columns and the messages' names for them.
    ``form``: how messages are written, one of `FORMS`. The table's column ``one`` is generated.
    """

    name: str
    keys: tuple[str, ...]
    key_kinds: tuple[KeyKind, ...]
    fields: tuple[str, ...]
    id_type: str | None
    columns: tuple[Column, ...]
    near: bool
    form: str = "json"

    def entities(self, rng: Random, number: int) -> list[tuple[Any, ...]]:
        """Different keys of which many look alike."""
        pools = [kind.ids(rng) for kind in self.key_kinds]
        if len(pools) == 1:
            return [(each,) for each in pools[0]]
        found = {}
        texts = all(kind.value_type == "STRING" for kind in self.key_kinds)
        if texts:  # one concatenation, cut in two places
            rest = ("",) * (len(pools) - 2)
            for whole in ("ab:c", "a\0b"[:1] + ",b,", "\\\\,", "1:11"):
                found |= dict.fromkeys((whole[:n], whole[n:], *rest) for n in range(len(whole) + 1))
        while len(found) < number:
            found[tuple(rng.choice(pool) for pool in pools)] = None
        return list(found)


_NAMES = [
    "order",
    "User",
    "select",
    "v",
    "V",
    "value_",
    "from_",
    "x1",
    "X1",
    "group",
    "Desc",
    "end",
]


def draw(rng: Random) -> list[Platform]:
    """Five tables: all key types, composites of two and of three, all kinds of columns."""
    single = rng.sample(KEY_KINDS, 4)
    texts = KEY_KINDS[0]
    shapes = [
        (single[0],), (single[1],), (single[2],), (single[3],),
        rng.choice([(texts, texts), (texts, rng.choice(KEY_KINDS))]),
        (texts, *rng.sample(KEY_KINDS, 2)) if rng.random() < 0.7 else (texts, texts, texts),
    ]  # fmt: skip
    kinds = list(KINDS)
    rng.shuffle(kinds)
    forms = [*FORMS, *rng.sample(FORMS, 2)]
    rng.shuffle(forms)
    found = []
    for number, shape in enumerate(shapes):
        names = rng.sample(_NAMES, 5)
        own = kinds[number::6] + rng.sample(KINDS, 2)
        columns = tuple(
            Column(name, rng.choice([name, f"{name}Field"]), kind, rng.random() < 0.5)
            for name, kind in zip(names, own, strict=False)
        )
        keys = tuple(
            rng.choice(["k{}", "Key{}"]).format(n) + f"_{number}" for n in range(len(shape))
        )
        found.append(
            Platform(
                name=f"t{number}", keys=keys, key_kinds=shape,
                fields=tuple(rng.choice([key, f"{key}Id"]) for key in keys),
                id_type=rng.choice(["text", "bigint", "uuid", None]),
                columns=columns, near=len(shape) == 1 and rng.random() < 0.5, form=forms[number],
            )
        )  # fmt: skip
    return found


def sql_of(platform: Platform) -> str:
    """The DDL of its history."""
    lines = [f'"{key}" {kind.pg_type} NOT NULL'
             for key, kind in zip(platform.keys, platform.key_kinds, strict=True)]  # fmt: skip
    if platform.id_type:
        lines.append(f"event_id {platform.id_type} NOT NULL")
    made = {c.name: f'"{platform.name}_{c.name}"' for c in platform.columns if c.kind.made}
    lines += [
        f'"{c.name}" {made.get(c.name, c.kind.pg_type)}{"" if c.nullable else " NOT NULL"}'
        for c in platform.columns
    ]
    one = f'octet_length("{platform.keys[0]}"::text) * 0 + 1'
    lines.append(f'"one" smallint GENERATED ALWAYS AS ({one}) STORED')
    lines += ["at timestamptz NOT NULL", "known_at timestamptz NOT NULL DEFAULT clock_timestamp()"]
    keys = ", ".join(f'"{key}"' for key in platform.keys)
    types = [
        f"CREATE {c.kind.made.format(made[c.name])};\n" for c in platform.columns if c.kind.made
    ]
    return "".join(types) + (
        f"CREATE TABLE {platform.name} (\n    " + ",\n    ".join(lines) + "\n);\n"
        f"CREATE INDEX {platform.name}_by_key ON {platform.name} ({keys}, at);\n"
        f"CREATE INDEX {platform.name}_by_at ON {platform.name} (at);\n"
        f"CREATE INDEX {platform.name}_by_known_at ON {platform.name} (known_at);\n"
    )


def format_of(platform: Platform) -> str:
    """The Python of its stream's format."""
    if platform.form == "avro":
        return f"AvroFormat(schema_json={json.dumps(avro_schema(platform))!r})"
    if platform.form == "protobuf":
        return f"ProtoFormat(class_path='feature_repo.messages.{platform.name}')"
    return "JsonFormat(schema_json='')"


def stream_tags(platform: Platform) -> dict[str, str]:
    """The tags of its stream: messages have no registry's header."""
    found = {"debezium": {"envelope": "debezium"}, "json": {}}
    return found.get(platform.form, {"schema_registry": "none"})


def message_fields(platform: Platform) -> dict[str, tuple[Any, bool]]:
    """By field of its messages, the type in Avro's words and whether it may be missing."""
    of_key = {"INT32": "int", "INT64": "long"}
    found = {
        field: (of_key.get(kind.value_type, "string"), False)
        for field, kind in zip(platform.fields, platform.key_kinds, strict=True)
    }
    found |= {c.field: (c.kind.avro, c.nullable) for c in platform.columns}
    if platform.id_type:
        found["event_id"] = ("long" if platform.id_type == "bigint" else "string", False)
    return found | {"at": ("string", False)}


def avro_schema(platform: Platform) -> dict[str, Any]:
    """The schema of its messages."""
    fields = [
        {"name": name, "type": ["null", kind] if optional else kind}
        for name, (kind, optional) in message_fields(platform).items()
    ]
    return {"type": "record", "name": platform.name, "fields": fields}


_PROTO = {"int": 5, "long": 3, "double": 1, "float": 2, "boolean": 8, "string": 9}


def proto_of(platforms: Sequence[Platform]) -> str:
    """A module with a class of messages for each platform, as a generated one holds it."""
    file = descriptor_pb2.FileDescriptorProto(
        name="drawn.proto", package="drawn", syntax="proto3",
    )  # fmt: skip
    for each in platforms:
        made = file.message_type.add(name=each.name)
        for number, (name, (kind, optional)) in enumerate(message_fields(each).items(), start=1):
            several = isinstance(kind, dict)
            field = made.field.add(
                name=name, number=number, json_name=name, label=3 if several else 1,
                type=_PROTO[kind["items"] if several else kind],
            )  # fmt: skip
            if optional and not several:
                field.proto3_optional = True
                field.oneof_index = len(made.oneof_decl)
                made.oneof_decl.add(name=f"_{name}")
    names = ", ".join(repr(each.name) for each in platforms)
    return f'''"""Drawn by lot."""
from google.protobuf import descriptor_pool, message_factory

pool = descriptor_pool.DescriptorPool()
pool.AddSerializedFile({file.SerializeToString()!r})
for name in [{names}]:
    globals()[name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"drawn.{{name}}"))
'''


def computation_of(platform: Platform) -> str:
    """The view's text: how many rows, and the last row's columns."""
    keys = ", ".join(f's."{key}"' for key in platform.keys)
    same = " AND ".join(f'e."{key}" = s."{key}"' for key in platform.keys)
    known = f"{same} AND e.at <= s.as_of AND e.known_at <= s.as_of"
    features = [
        f"coalesce({_feature(c)}, {_literal(c.kind)}) AS f_{n}"
        for n, c in enumerate(platform.columns)
    ]
    return (
        f"SELECT {keys}, s.as_of, c.n AS f_rows, {', '.join(features)} FROM spine AS s "
        "CROSS JOIN LATERAL (SELECT coalesce(sum(e.one), 0) AS n "
        f"FROM {platform.name} AS e WHERE {known}) AS c "
        f"LEFT JOIN LATERAL (SELECT * FROM {platform.name} AS e WHERE {known} "
        "ORDER BY e.at DESC LIMIT 1) AS l ON TRUE\n"
    )


def _feature(column: Column) -> str:
    return column.kind.cast.format(f'l."{column.name}"')


def _literal(kind: Kind) -> str:
    default = json.loads(kind.default)
    if isinstance(default, list):
        return "'{" + ",".join(json.dumps(each) for each in default) + "}'"
    return f"'{default}'" if isinstance(default, str) else json.dumps(default)


def python_of(platforms: Sequence[Platform]) -> dict[str, str]:
    """The repository's files of Python, by name."""
    lines = [
        '"""Drawn by lot."""',
        "from datetime import timedelta",
        "from feast import Entity, FeatureService, FeatureView, Field, KafkaSource, ValueType",
        "from feast.data_format import AvroFormat, JsonFormat, ProtoFormat",
        "from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (",
        "    PostgreSQLSource,",
        ")",
        "from feast.types import *",
    ]
    for each in platforms:
        tags = {"keys": ",".join(each.keys)} | ({"id": "event_id"} if each.id_type else {})
        pairs = [*zip(each.fields, each.keys, strict=True),
                 *((column.field, column.name) for column in each.columns)]  # fmt: skip
        mapping = {field: name for field, name in pairs if field != name}
        view_tags = {"freshness": "realtime", "reads": each.name}
        view_tags |= {"near": "true"} if each.near else {}
        for number, (key, kind) in enumerate(zip(each.keys, each.key_kinds, strict=True)):
            lines.append(
                f"{each.name}_e{number} = Entity(name={f'{each.name}_e{number}'!r}, "
                f"join_keys=[{key!r}], value_type=ValueType.{kind.value_type})"
            )
        fields = ["Field(name='f_rows', dtype=Int64, tags={'default': '0'})"] + [
            f"Field(name='f_{n}', dtype={c.kind.dtype}, tags={{'default': {c.kind.default!r}}})"
            for n, c in enumerate(each.columns)
        ]
        entities = ", ".join(f"{each.name}_e{n}" for n in range(len(each.keys)))
        name = each.name
        lines.append(f"""
{name} = PostgreSQLSource(
    name={name!r}, table={name!r}, timestamp_field="at", created_timestamp_column="known_at",
    tags={tags!r},
)
{name}_stream = KafkaSource(
    name="{name}_stream", topic={name!r}, kafka_bootstrap_servers="", timestamp_field="at",
    batch_source={name}, message_format={format_of(each)}, field_mapping={mapping!r},
    tags={stream_tags(each)!r},
)
{name}_log = PostgreSQLSource(
    name="{name}_view_v1", table="{name}_view_v1", timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)
{name}_view = FeatureView(
    name="{name}_view", version="v1", entities=[{entities}], ttl=timedelta(0),
    schema=[{", ".join(fields)}], source={name}_log, tags={view_tags!r},
)
{name}_service = FeatureService(name="{name}_service", features=[{name}_view])
""")
    return {
        "__init__.py": "",
        "definitions.py": "\n".join(lines) + "\n",
        "messages.py": proto_of(platforms),
    }
