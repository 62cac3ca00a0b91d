"""PostgreSQL's own list of its types, values of each, and what each value is by its own text."""

import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
from feast import types as feast_types

# Texts of all sorts: each type's values are those that its input function takes.
CANDIDATES = (
    "0", "1", "-7", "5.7", "32767", "2147483647", "9007199254740993", "9223372036854775807", "1.50",
    "0.1", "1e300", "-0.0", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.123",
    "t", "false", "a", "A-1", "B 'q\"\\{,}", "日本", "", "2026-01-31", "2026-01-31 12:00:00.25+02",
    "1969-12-31 23:59:59.5+00", "0044-03-15 BC", "infinity", "24:00:00", "12:30:00+02",
    "1 day 02:00",
    "10.0.0.1", "10.1.0.0/16", "::1", "08:00:2b:01:02:03", "08:00:2b:01:02:03:04:05", "$1,234.50",
    "101", "\\x00ff", "(1,2)", "(1,1),(0,0)", "[(0,0),(1,1)]", "<(0,0),1>", "{1,2,3}", "[1,5)",
    "[2026-01-01,2026-02-01)", "{[1,3),[5,7)}", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    '{"a": [1, 2.50, null]}', "[1, 2]", "<a>b</a>", "'fat' & 'rat'", "16/B374D848", "10:20:10,14",
    "(0,1)", "pg_type", "happy", "{[2026-01-01,2026-02-01)}",
)  # fmt: skip

# Made by the tests: what the catalogue has of users' own types.
OWN_TYPES = """
DO $$ BEGIN
    CREATE TYPE exact_mood AS ENUM ('happy', 'A-1');
    CREATE DOMAIN exact_positive AS integer CHECK (VALUE > 0);
    CREATE DOMAIN exact_code AS char(8);
    CREATE DOMAIN exact_share AS numeric(6, 2);
    CREATE TYPE exact_pair AS (a bigint, b text);
EXCEPTION WHEN duplicate_object THEN NULL; END $$
"""
# With modifiers, of which the catalogue has no list.
DATED = ("date", "timestamp with time zone", "timestamp without time zone")
MODIFIED = ("character(8)", "character varying(40)", "numeric(12,2)", "bit(3)", "timestamptz(0)")

PRIMITIVES = [
    getattr(feast_types, name)
    for name in (
        "String", "Int32", "Int64", "Float32", "Float64", "Bool", "Bytes", "UnixTimestamp", "Uuid",
        "TimeUuid", "Decimal", "Json", "Map", "ZonedTimestamp", "ScalarMap", "ImageBytes",
    )
]  # fmt: skip
ARRAYS = [
    feast_types.Array(one)
    for one in PRIMITIVES
    if one not in (feast_types.ZonedTimestamp, feast_types.ScalarMap)
]
NESTED = [
    feast_types.Array(feast_types.Array(one))
    for one in (feast_types.Int64, feast_types.Float64, feast_types.String, feast_types.Bool)
]
SETS = [feast_types.Set(one) for one in (feast_types.Int64, feast_types.String)]


@dataclass(frozen=True)
class Held:
    """A value of a column: its texts, and as an instant, a document or its items where it is one.

    ``texts``: as a cast writes it and as it is printed, which differ for a few types.
    """

    texts: tuple[str, ...]
    seconds: Decimal | None = None
    items: tuple["Held | None", ...] | None = None
    dimensions: str | None = None


def known_types(conn: psycopg.Connection) -> list[str]:
    """Every type that a column may have, by the catalogue."""
    conn.execute(OWN_TYPES)
    names = [
        name
        for (name,) in conn.execute(
            "SELECT format_type(t.oid, NULL) FROM pg_type AS t "
            "INNER JOIN pg_namespace AS n ON n.oid = t.typnamespace "
            "WHERE t.typtype IN ('b', 'd', 'e', 'r', 'm') AND t.typelem = 0 "
            "AND n.nspname IN ('pg_catalog', 'public') ORDER BY 1"
        ).fetchall()
    ]
    return [*names, "exact_pair", "int2vector", "oidvector", "point", "box", "lseg", *MODIFIED]


def values_of(conn: psycopg.Connection, kind: str) -> list[str]:
    """The candidates that the type's input function takes."""
    return [text for text in CANDIDATES if _is_taken(conn, kind, text)]


def _is_taken(conn: psycopg.Connection, kind: str, text: str) -> bool:
    try:
        row = conn.execute("SELECT pg_input_is_valid(%s, %s)", [text, kind]).fetchone()
    except psycopg.Error:  # some internal types' input functions know no soft errors
        return False
    return bool(row and row[0])


def held_values(conn: psycopg.Connection, table: str, *, array: bool) -> dict[int, Held | None]:
    """What the table holds in ``x``, by ``user_id``, as PostgreSQL itself writes it."""
    found: dict[int, Held | None] = {}
    row = conn.execute(f"SELECT pg_typeof(x)::text FROM {table} LIMIT 1").fetchone()
    # The shortest text of a real is not the number that it is.
    whole = "::double precision" if row and row[0].startswith("real") else ""
    for user_id, absent, cast, printed, seconds, dims in conn.execute(
        f"SELECT user_id, x IS NULL, x{'' if array else whole}::text, format('%s', x), "
        f"{_seconds(conn, table)}, "
        f"{'array_dims(x)' if array else 'NULL'} FROM {table}"
    ).fetchall():
        items = None
        if array and not absent:
            items = tuple(
                None if missing else Held((text, shown))
                for missing, text, shown in conn.execute(
                    f"SELECT u.v IS NULL, u.v{whole}::text, format('%%s', u.v) FROM {table} AS t, "
                    "unnest(t.x) WITH ORDINALITY AS u (v, n) WHERE t.user_id = %s ORDER BY u.n",
                    [user_id],
                ).fetchall()
            )
        found[user_id] = None if absent else Held((cast, printed), seconds, items, dims)
    return found


def _seconds(conn: psycopg.Connection, table: str) -> str:
    row = conn.execute(f"SELECT pg_typeof(x)::text FROM {table} LIMIT 1").fetchone()
    dated = row is not None and row[0].partition("(")[0].rstrip() in DATED
    return "CASE WHEN isfinite(x) THEN extract(EPOCH FROM x) END" if dated else "NULL"


def is_right(got: Any, held: "Held | None", dtype: Any, *, online: bool) -> bool:
    """Whether ``got`` is the value that the database holds, as ``dtype``."""
    if held is None:
        return got is None
    if got is None:
        return False
    if isinstance(dtype, feast_types.Array | feast_types.Set):
        return _is_right_list(got, held, dtype, online=online)
    name = dtype.name
    return bool(_CHECKS[name](got, held, online))


def _is_right_list(got: Any, held: Held, dtype: Any, *, online: bool) -> bool:
    if held.items is None:
        return json.loads(held.texts[0]) == (json.loads(got) if isinstance(got, str) else got)
    depth = 2 if isinstance(dtype.base_type, feast_types.Array) else 1
    if (held.dimensions or "").count("[") not in (0, depth):
        return False
    inner = dtype.base_type.base_type if depth > 1 else dtype.base_type
    flat = [one for row in got for one in row] if depth > 1 else list(got)
    if depth > 1 and held.dimensions:
        [first, second] = [
            int(part.partition(":")[2]) for part in held.dimensions.strip("[]").split("][")
        ]
        if [len(row) for row in got] != [second] * first:
            return False
    if isinstance(dtype, feast_types.Set):
        left = list(flat)
        if not online and None in left and None in held.items:
            left.remove(None)
        for item in [one for one in held.items if one]:
            same = [x for x in left if is_right(x, item, inner, online=online)]
            if not same:
                return any(is_right(x, item, inner, online=online) for x in flat)
            left.remove(same[0])
        return not left
    if len(flat) != len(held.items):
        return False
    return all(
        _is_right_item(one, item, inner, online=online)
        for one, item in zip(flat, held.items, strict=True)
    )


def _is_right_item(got: Any, held: "Held | None", dtype: Any, *, online: bool) -> bool:
    if held is None and online and dtype.name.startswith("FLOAT"):
        return isinstance(got, float) and math.isnan(got)  # as Feast makes it
    return is_right(got, held, dtype, online=online)


def _whole(got: Any, held: Held, _online: bool) -> bool:
    texts = {"true": "1", "false": "0"}
    text = texts.get(held.texts[0], held.texts[0])
    return type(got) is int and Decimal(text) == got


def _near(kind: Any) -> Any:
    def check(got: Any, held: Held, online: bool) -> bool:
        wanted = float(kind(float(held.texts[0])))
        if online:
            wanted += 0.0  # a zero has no sign there
        if wanted == 0 and math.copysign(1, wanted) != math.copysign(1, got):
            return False
        return wanted == got or (math.isnan(wanted) and math.isnan(got))

    return check


def _instant(got: Any, held: Held, online: bool) -> bool:
    seconds = held.seconds if held.seconds is not None else _epoch(held.texts[0])
    if isinstance(got, int):
        return got == seconds // 1 if online and seconds >= 0 else got == math.floor(seconds)
    if not isinstance(got, datetime):
        got = datetime(got.year, got.month, got.day, tzinfo=UTC)
    got = got if got.tzinfo else got.replace(tzinfo=UTC)
    micros = (got - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if online:
        return micros == math.floor(seconds) * 1_000_000
    return micros == seconds * 1_000_000


def _epoch(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        at = datetime.fromisoformat(text if len(text) == len("2026-01-31") else text + ":00")
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return Decimal((at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)) / 10**6


def _document(got: Any, held: Held, _online: bool) -> bool:
    document = json.loads(got) if isinstance(got, str) else got
    return bool(document == json.loads(held.texts[0]))


def _raw(got: Any, held: Held, _online: bool) -> bool:
    return isinstance(got, bytes) and got.hex() == held.texts[0].removeprefix("\\x")


def _text(got: Any, held: Held, _online: bool) -> bool:
    return isinstance(got, str) and got in held.texts


def _uuid(got: Any, held: Held, _online: bool) -> bool:
    return uuid.UUID(str(got)) == uuid.UUID(held.texts[0])


_CHECKS: dict[str, Any] = {
    "STRING": _text,
    "INT32": _whole,
    "INT64": _whole,
    "FLOAT32": _near(np.float32),
    "FLOAT64": _near(np.float64),
    "BOOL": lambda got, held, _: type(got) is bool and str(got).lower() == held.texts[0],
    "BYTES": _raw,
    "IMAGE_BYTES": _raw,
    "UNIX_TIMESTAMP": _instant,
    "ZONED_TIMESTAMP": _instant,
    "UUID": _uuid,
    "TIME_UUID": _uuid,
    "DECIMAL": lambda got, held, _: str(got) in held.texts,
    "JSON": _document,
    "MAP": _document,
}
