"""Design effect of requests: what a request brings is one value for all of its rows.

Of fifty requests with twenty items each, a transform of the request's hour has fifty values and not
a thousand. A request's rows are a cluster (`repeated_entities`), and since no request comes twice,
none is of both samples: the sum of (w - v)^2 is that of w^2 and v^2, with w and v the requests'
shares of the window's and of the training set's rows.

A training set does not say which of its labels were one request's. Its rows are taken for one
request where their time, what the request brought, and the keys of which a request of the window
has one only are the same. Where requests of the window have one row, and so show nothing, they
share the leading keys: of a pair whose rows they are (`extensions.service_routes.leading_first`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

from extensions.database.connection import identifiers

TIME = "event_timestamp"
# Of more keys the others count as those that vary within a request, which is the careful side.
MOST_KEYS = 4


@dataclass(frozen=True)
class LiveRequests:
    """The requests of a window.

    Attributes:
        rows: How many rows.
        squares: The sum of the squares of the requests' shares of them.
        shared: The keys of which a request has one value only, as do most rows of requests of
            several rows; None: there are no such requests.
    """

    rows: int
    squares: float
    shared: frozenset[str] | None


def training_requests(
    table: pa.Table, fields: Sequence[str], keys: Sequence[str]
) -> dict[str, Any] | None:
    """The requests of a training set, as a baseline keeps them; None where rows have no time.

    Args:
        table: The training set.
        fields: What requests bring.
        keys: The service's join keys, the leading one first.

    Returns:
        ``fields`` and ``keys`` that were looked at, and ``squares``: for each set of the keys that
        requests may share, the sum of the squares of the requests' shares of the rows.
    """
    if not fields or TIME not in table.column_names:
        return None
    held = [each for each in fields if _is_plain(table, each)]
    possible = [each for each in keys if _is_plain(table, each)][:MOST_KEYS]
    if not keys:  # a service without keys answers one row
        return {"fields": held, "keys": [], "squares": [[[], 1 / max(1, table.num_rows)]]}
    subsets = [s for n in range(len(possible) + 1) for s in combinations(possible, n)]
    return {
        "fields": held,
        "keys": possible,
        "squares": [[list(each), _squares(table, (TIME, *held, *each))] for each in subsets],
    }


def one_row_of_each(
    table: pa.Table, fields: Sequence[str], keys: Sequence[str]
) -> NDArray[np.int64] | None:
    """Places of one row of each request of a training set; None where rows have no time.

    Args:
        table: The training set.
        fields: What requests bring.
        keys: The service's join keys, the leading one first.
    """
    if TIME not in table.column_names or not keys:
        return None
    same = [each for each in (*fields, *_leading(keys)) if _is_plain(table, each)]
    numbered = table.select([TIME, *same]).append_column("#", pa.array(np.arange(len(table))))
    first = numbered.group_by([TIME, *same], use_threads=False).aggregate([("#", "min")])
    result: NDArray[np.int64] = np.sort(first["#_min"].to_numpy())
    return result


def live_requests(
    conn: psycopg.Connection,
    table: str,
    where: sql.Composable,
    fields: Sequence[str],
    keys: Mapping[str, str],
) -> LiveRequests:
    """The requests of a window of the serving log.

    Args:
        conn: A connection to the database.
        table: The serving log.
        where: The window's rows.
        fields: The columns of what requests bring: rows for which they differ share nothing.
        keys: The columns of the join keys, by key.
    """
    one = [sql.SQL("count(*)")] + [
        sql.SQL("min({0}) IS NOT DISTINCT FROM max({0})").format(sql.Identifier(column))
        for column in keys.values()
    ]
    names = [f"shared_{place}" for place in range(len(keys))]
    every = [sql.SQL("max(number)")] + [
        sql.SQL(
            "coalesce(sum(number) FILTER (WHERE {0} AND number > 1) * 2 "
            ">= sum(number) FILTER (WHERE number > 1), FALSE)"
        ).format(sql.Identifier(name))
        for name in names
    ]
    most, *shared = conn.execute(
        sql.SQL(
            "SELECT {every} FROM (SELECT {one} FROM {table} WHERE {where} GROUP BY request_id) "
            "AS r ({names})"
        ).format(
            every=sql.SQL(", ").join(every),
            one=sql.SQL(", ").join(one),
            table=sql.Identifier(table),
            where=where,
            names=identifiers(("number", *names)),
        )
    ).fetchone() or (None,)
    row = conn.execute(
        sql.SQL(
            "SELECT coalesce(sum(number), 0)::bigint, coalesce(sum(number ^ 2), 0)::float8 "
            "FROM (SELECT count(*)::float8 AS number FROM {table} WHERE {where} "
            "GROUP BY {by}) AS r"
        ).format(table=sql.Identifier(table), where=where, by=identifiers(("request_id", *fields)))
    ).fetchone()
    rows, squares = row or (0, 0.0)
    same = frozenset(key for key, each in zip(keys, shared, strict=True) if each)
    several = most is not None and most > 1
    return LiveRequests(rows, squares / rows**2 if rows else 0.0, same if several else None)


def independent_share_of_requests(live: LiveRequests, held: Mapping[str, Any], rows: int) -> float:
    """What each row is worth, at most 1, for a value that its request brings.

    Args:
        live: The window's requests.
        held: The training set's (`training_requests`).
        rows: How many rows the training set has.
    """
    if not live.rows or not rows:
        return 1.0
    possible = held["keys"]
    shared = set(_leading(possible))
    if live.shared is not None:
        shared = set(possible) & live.shared
    base = next(squares for keys, squares in held["squares"] if set(keys) == shared)
    return float(min(1.0, (1 / live.rows + 1 / rows) / (live.squares + base)))


def _leading(keys: Sequence[str]) -> Sequence[str]:
    """The keys that the rows of a request share: of several, all but the last."""
    return keys[: max(1, len(keys) - 1)]


def _squares(table: pa.Table, columns: Sequence[str]) -> float:
    sizes = table.group_by(list(columns), use_threads=False).aggregate([([], "count_all")])
    return float(pc.sum(pc.power(pc.divide(sizes["count_all"].cast(pa.float64()),
                                           float(table.num_rows)), 2)).as_py() or 0.0)  # fmt: skip


def _is_plain(table: pa.Table, name: str) -> bool:
    return name in table.column_names and not pa.types.is_nested(table.schema.field(name).type)
