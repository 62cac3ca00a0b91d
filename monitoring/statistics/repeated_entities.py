"""Design effect of repeated entities: the effective number of rows of a window.

A user who sends twenty requests an hour is one user, not twenty: the values of the rows are the
user's, and a window of few users differs from a training set of many though nothing has changed. In
sampling theory that is the design effect of clusters (Kish 1965), and a test on their counts holds
once the counts are divided by it (Rao and Scott 1981).

Where an entity has one value, a mean over the window differs from the training set's by the sum of
(w - v) x value over entities, with w and v their shares of the rows, so its variance is that of the
values times the sum of (w - v)^2. Rows of as many entities have 1 / n + 1 / m in its place. So
entities that come as often as in training cost nothing, be they few; others count once each.

What has several keys is its parts' as well: the values of a user's items may all be the user's,
as those of a transform of both. So a row is worth what it is worth for the keys, single and
together, of which the fewest are independent.

Shares are those of entities' hash buckets, of which the sum has the same expectation (the AMS
sketch of Alon, Matias and Szegedy 1996): a baseline keeps a thousand numbers and no entity.
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from extensions.database.connection import identifiers
from extensions.feature_types import is_text

# The share of the sum that chance moves is the root of 2 / BUCKETS.
BUCKETS = 1_024
# Between several keys, of which a text comes after its length: ("a|b", "c") is not ("a", "b|c").
_JOIN = "|"
# Of more keys only each alone, and all together.
MOST_COMBINED = 3


def entity_counts(table: pa.Table, keys: Sequence[str]) -> list[int] | None:
    """Rows by bucket of their entities; None where their keys are not known, or have no text."""
    if not keys or not set(keys) <= set(table.column_names):
        return None
    columns = [table[key] for key in keys]
    if not all(pa.types.is_integer(c.type) or is_text(c.type) for c in columns):
        return None
    texts = [_part(column, alone=len(columns) == 1) for column in columns]
    joined = pc.binary_join_element_wise(*texts, _JOIN)
    result = [0] * BUCKETS
    for one in joined.value_counts().to_pylist():
        result[_bucket(one["values"])] += one["counts"]
    return result


def parts_of(keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The keys of which a value can depend alone, without all of them together."""
    sizes = range(1, len(keys)) if len(keys) <= MOST_COMBINED else (1,)
    return [part for size in sizes for part in combinations(keys, size)]


def live_counts(
    conn: psycopg.Connection, keys: Sequence[str], table: str, where: sql.Composable
) -> list[int]:
    """As `entity_counts`, of the rows of a table in PostgreSQL."""
    part = (
        "coalesce(CASE WHEN pg_typeof({0}) = 'text'::regtype "
        "THEN octet_length({0}::text) || ':' END || {0}::text, {0}::text, '')"
        if len(keys) > 1
        else "coalesce({0}::text, '')"
    )
    columns = [sql.SQL(part).format(sql.Identifier(key)) for key in keys]
    rows = conn.execute(
        sql.SQL(
            "SELECT ('x' || left(md5({entity}), 4))::bit(16)::integer %% {buckets}, "
            "sum(number)::bigint FROM (SELECT {keys}, count(*) AS number "
            "FROM {table} WHERE {where} GROUP BY {keys}) AS e GROUP BY 1"
        ).format(
            keys=identifiers(tuple(keys)),
            buckets=sql.Literal(BUCKETS),
            entity=sql.SQL(f" || '{_JOIN}' || ").join(columns),
            table=sql.Identifier(table),
            where=where,
        ),
        {},
    ).fetchall()
    result = [0] * BUCKETS
    for bucket, number in rows:
        result[bucket] = number
    return result


def independent_share(live: Sequence[int], base: Sequence[int]) -> float:
    """What each row is worth, at most 1: the inverse of the design effect."""
    now, was = np.array(live, float), np.array(base, float)
    n, m = now.sum(), was.sum()
    if not n or not m:
        return 1.0
    apart = float(((now / n - was / m) ** 2).sum())
    return float(min(1.0, (1 / n + 1 / m) / apart)) if apart else 1.0


def _part(column: pa.ChunkedArray, *, alone: bool) -> pa.ChunkedArray:
    texts = pc.fill_null(column.cast(pa.string()), "")
    if alone or not is_text(column.type):
        return texts
    sizes = pc.binary_length(texts).cast(pa.string())
    return pc.if_else(column.is_null(), "", pc.binary_join_element_wise(sizes, texts, ":"))


def _bucket(text: str) -> int:
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:4], 16) % BUCKETS
