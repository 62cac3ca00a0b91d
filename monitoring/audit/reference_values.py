"""Reference values of the audit: the training join, the recomputation, and the log's evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from feast import FeatureStore
from numpy.typing import NDArray
from psycopg import sql

from extensions.asof import Computation
from extensions.asof.engine import answers
from extensions.asof.log_cuts import cut_of
from extensions.asof.spine import Spine
from extensions.database.connection import identifiers, table_exists
from extensions.errors import ConfigurationError
from extensions.stores.offline.retrieval_job import SkewlessRetrievalJob
from extensions.stores.offline.writes.serving_log_table import TABLE, column_name
from monitoring.baseline import Feature

SERVED = "served__"
ROW = ("request_id", "row_number")
# What is refused where the log's rows that would tell are in the lake alone.
SEARCH = "The audit's search for the cause of a difference"


@dataclass(frozen=True)
class Slice:
    """Rows of requests that were answered with the same versions, in a span of time.

    ``requests``: their ids. ``columns``: the served log's column of each feature, by its label.
    """

    service: str
    start: datetime
    end: datetime
    requests: tuple[int, ...]
    versions: Mapping[str, int]
    features: tuple[Feature, ...]
    columns: Mapping[str, str]
    keys: tuple[str, ...]
    request: tuple[str, ...]

    def rows(self, columns: Sequence[sql.Composable], condition: str = "TRUE") -> sql.Composed:
        """SELECT the columns of the slice's rows, prefixed ``f``; ``condition`` about them."""
        # Named one by one, since a plan for a join of the log with itself needs statistics, and
        # of the last hour there may be none.
        return sql.SQL(
            "SELECT {columns} FROM {table} AS f WHERE f.service = {service} "
            "AND f.served_at >= {start} AND f.served_at < {end} AND f.source = 'http' "
            "AND f.request_id = ANY({requests}::bigint[]) AND {condition}"
        ).format(
            columns=sql.SQL(", ").join(columns),
            table=sql.Identifier(TABLE),
            service=sql.Literal(self.service),
            start=sql.Literal(self.start),
            end=sql.Literal(self.end),
            requests=sql.Literal(list(self.requests)),
            condition=sql.SQL(condition),
        )


def joined(
    store: FeatureStore, part: Slice, versions: Mapping[str, int], *, transforms: bool
) -> pa.Table:
    """Each row as the training join answers it, at the request's moment and in these versions.

    Columns: ``request_id``, ``row_number``, ``event_timestamp`` (served at), the keys, the
    features by their names with ``<view>__found`` and ``<view>__age_seconds``, and what was
    served as ``served__<view>:<feature>``, ``served__<view>__as_of``, ``served__<view>``
    (whether the row carries the view).
    """
    refs = [
        f"{feature.view}@v{versions[feature.view]}:{feature.name}"
        if feature.version
        else feature.label
        for feature in part.features
        if feature.version or transforms
    ]
    labels = part.rows(_label_columns(part))
    job = store.get_historical_features(entity_df=labels.as_string(None), features=refs)
    if not isinstance(job, SkewlessRetrievalJob):
        raise ConfigurationError(
            "The audit needs this project's offline store in feature_store.yaml."
        )
    return pa.concat_tables(list(job.in_full().to_batches()), promote_options="permissive")


def recomputed(conn: dbapi.Connection, part: Slice, computation: Computation) -> pa.Table:
    """Each served value of a view once more, from the raw history as of its own moment.

    Columns: ``request_id``, ``row_number``, the features. A default has no moment of its own: it
    is recomputed as of the request less the view's freshness budget, by when a value that is
    another must have been served.
    """
    held = held_rows(part, computation)
    keys = identifiers(computation.join_keys)
    spine = sql.SQL("SELECT DISTINCT {keys}, as_of FROM ({held}) AS held").format(
        keys=keys, held=held
    )
    query = sql.SQL(
        "{answers} SELECT request_id, row_number, {features} FROM ({held}) AS held "
        "LEFT JOIN answered USING ({keys}, as_of)"
    ).format(
        answers=answers(computation, Spine(spine)),
        features=identifiers([f.name for f in computation.features], "answered"),
        held=held,
        keys=keys,
    )
    with conn.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(query.as_string(None))
        table: pa.Table = cursor.fetch_arrow_table()
    return table


def held_rows(part: Slice, computation: Computation) -> sql.Composed:
    """SQL of what was served of a view: ``request_id``, ``row_number``, the keys, ``as_of``."""
    view = computation.view
    as_of = sql.Identifier("f", column_name(view, "as_of"))
    return part.rows(
        [
            *(sql.Identifier("f", name) for name in ROW),
            # The log of requests has UUIDs as texts.
            *(
                sql.SQL("f.{0}::{1} AS {0}").format(sql.Identifier(name), sql.SQL(kind))
                for name, kind in zip(computation.join_keys, computation.key_types, strict=True)
            ),
            sql.SQL("coalesce({}, f.served_at - {}::interval) AS as_of").format(
                as_of, sql.Literal(computation.freshness.budget)
            ),
        ],
        sql.Identifier("f", column_name(view, "version")).as_string(None) + " IS NOT NULL",
    )


@dataclass(frozen=True)
class Evidence:
    """What the log says of rows that differ; arrays of one length.

    ``created``: when the joined row was published (seconds, NaN: not by the request's time).
    ``dated_back``: it says that it was published earlier than it came. ``logged``: the log holds
    a row of the moment that was served.
    """

    created: NDArray[np.float64]
    dated_back: NDArray[np.bool_]
    logged: NDArray[np.bool_]


def evidence(
    conn: psycopg.Connection,
    computation: Computation,
    keys: Sequence[Sequence[object]],
    served_at: Sequence[datetime],
    as_of: Sequence[datetime | None],
    joined_as_of: Sequence[datetime | None],
) -> Evidence:
    """Look the rows up in the view's log. ``keys``: one sequence for each join key.

    Raises:
        ColdRowsError: the rows that would tell were cut.
    """
    log = computation.log_table
    cut = cut_of(conn, log)
    if cut is not None and served_at and not cut.answers(min(served_at)):
        raise cut.refusal(min(served_at), SEARCH)
    if not table_exists(conn, log):
        nothing = np.zeros(len(served_at), np.bool_)
        return Evidence(np.full(len(served_at), np.nan), nothing, nothing)
    names = [f"k{i}" for i in range(len(keys))]
    same = sql.SQL(" AND ").join(
        sql.SQL("l.{} = c.{}").format(sql.Identifier(key), sql.Identifier(name))
        for key, name in zip(computation.join_keys, names, strict=True)
    )
    arrays = [
        sql.SQL("{}::{}[]").format(sql.Literal(list(values)), sql.SQL(kind))
        for values, kind in zip(
            (*keys, served_at, as_of, joined_as_of),
            (*computation.key_types, "timestamptz", "timestamptz", "timestamptz"),
            strict=True,
        )
    ]
    query = sql.SQL(
        "SELECT extract(epoch FROM j.created)::double precision, "
        "EXISTS (SELECT FROM late_appends AS a WHERE a.log_table = {log_name} "
        "AND a.oldest_created <= j.created AND a.appended_at > c.served_at) "
        "OR (j.created = c.joined_as_of AND EXISTS (SELECT FROM backfills AS b "
        "WHERE b.view_name = {view} AND b.version = {version} AND b.updated_at > c.served_at "
        "AND b.range_start <= c.joined_as_of AND b.range_end >= c.joined_as_of)), "
        "EXISTS (SELECT FROM {log} AS l WHERE {same} AND l.event_timestamp = c.as_of) "
        "FROM unnest({arrays}) WITH ORDINALITY AS c ({names}, served_at, as_of, joined_as_of, n) "
        "LEFT JOIN LATERAL (SELECT max(l.created_timestamp) AS created FROM {log} AS l "
        "WHERE {same} AND l.event_timestamp = c.joined_as_of "
        "AND l.created_timestamp <= c.served_at) AS j ON TRUE ORDER BY c.n"
    ).format(
        log_name=sql.Literal(log),
        view=sql.Literal(computation.view),
        version=sql.Literal(computation.version),
        log=sql.Identifier(log),
        same=same,
        arrays=sql.SQL(", ").join(arrays),
        names=identifiers(names),
    )
    rows = conn.execute(query).fetchall()
    if cut is not None:  # of a row that was cut it would say that it was never logged
        for at, (_, _, logged) in zip(as_of, rows, strict=True):
            if at is not None and not logged and not cut.answers(at):
                raise cut.refusal(at, SEARCH)
    return Evidence(
        np.array([np.nan if row[0] is None else row[0] for row in rows], np.float64),
        np.array([bool(row[1]) for row in rows], np.bool_),
        np.array([row[2] for row in rows], np.bool_),
    )


def _label_columns(part: Slice) -> list[sql.Composable]:
    columns: list[sql.Composable] = [sql.Identifier("f", name) for name in (*ROW, *part.keys)]
    columns.append(sql.SQL("f.served_at AS event_timestamp"))
    columns += [
        sql.SQL("{} AS {}").format(
            sql.Identifier("f", column_name("request", name)), sql.Identifier(name)
        )
        for name in part.request
    ]
    for view in part.versions:
        columns.append(
            sql.SQL("f.{} IS NOT NULL AS {}").format(
                sql.Identifier(column_name(view, "version")), sql.Identifier(SERVED + view)
            )
        )
        columns.append(
            sql.SQL("f.{} AS {}").format(
                sql.Identifier(column_name(view, "as_of")),
                sql.Identifier(f"{SERVED}{view}__as_of"),
            )
        )
    columns += [
        sql.SQL("f.{} AS {}").format(
            sql.Identifier(part.columns[feature.label]), sql.Identifier(SERVED + feature.label)
        )
        for feature in part.features
    ]
    return columns
