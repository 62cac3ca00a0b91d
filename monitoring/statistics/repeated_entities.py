"""Design effect of repeated entities: the effective number of rows of a window.

A user who sends twenty requests an hour is one user, not twenty: the values of the rows are the
user's, and a window of few users differs from a training set of many though nothing has changed. In
sampling theory that is the design effect of clusters (Kish 1965), and a test on their counts holds
once the counts are divided by it (Rao and Scott 1981).

Where an entity has one value, a mean over the window differs from the training set's by the sum of
(w - v) x value over entities, with w and v their shares of the rows, so its variance is that of the
values times the sum of (w - v)^2. Rows of as many entities have 1 / n + 1 / m in its place. So
entities that come as often as in training cost nothing, be they few; others count once each.

Shares are those of entities' hash buckets, of which the sum has the same expectation (the AMS
sketch of Alon, Matias and Szegedy 1996): a baseline keeps a thousand numbers and no entity.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from extensions.database.connection import identifiers

# The share of the sum that chance moves is the root of 2 / BUCKETS.
BUCKETS = 1_024
# Between the texts of several keys.
_JOIN = "|"


def entity_counts(table: pa.Table, keys: Sequence[str]) -> list[int] | None:
    """Rows by bucket of their entities; None where their keys are not known, or have no text."""
    if not keys or not set(keys) <= set(table.column_names):
        return None
    columns = [table[key] for key in keys]
    if not all(pa.types.is_integer(c.type) or pa.types.is_string(c.type) for c in columns):
        return None
    texts = [pc.fill_null(column.cast(pa.string()), "") for column in columns]
    joined = pc.binary_join_element_wise(*texts, _JOIN)
    result = [0] * BUCKETS
    for one in joined.value_counts().to_pylist():
        result[_bucket(one["values"])] += one["counts"]
    return result


def live_counts(
    conn: psycopg.Connection, keys: Sequence[str], table: str, where: sql.Composable
) -> list[int]:
    """As `entity_counts`, of the rows of a table in PostgreSQL."""
    columns = [sql.SQL("coalesce({}::text, '')").format(sql.Identifier(key)) for key in keys]
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


def _bucket(text: str) -> int:
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:4], 16) % BUCKETS
