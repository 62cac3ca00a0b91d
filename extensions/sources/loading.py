"""Loading the declared sources: Feast's definitions, and columns from PostgreSQL's catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import psycopg
from feast import KafkaSource
from feast.repo_contents import RepoContents
from psycopg import sql

from extensions.asof.computation_loading import history_sources
from extensions.asof.definition_validation import check_source_columns
from extensions.asof.durations import read_duration
from extensions.errors import DefinitionError
from extensions.sources.event_stream import EventStream
from extensions.sources.history_table import Column, HistoryTable
from extensions.suggestions import did_you_mean

T = TypeVar("T")

# Without the tag ``oldest``: a time before it is more likely a mistake of unit than an event.
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)

# A column of a domain is one of the type that the domain is made of, which may be a domain again:
# its values are that type's. What the domain checks is checked by PostgreSQL as rows go in.
_COLUMNS = """
WITH RECURSIVE steps AS (
    SELECT a.attnum, 0 AS depth, a.atttypid AS type, a.atttypmod AS modifier,
        false AS refuses_null, NULL::text COLLATE "C" AS fallback
    FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT s.attnum, s.depth + 1, t.typbasetype, t.typtypmod,
        s.refuses_null OR t.typnotnull, coalesce(s.fallback, t.typdefault)
    FROM steps AS s INNER JOIN pg_type AS t ON t.oid = s.type WHERE t.typtype = 'd'
),
bases AS (SELECT DISTINCT ON (attnum) * FROM steps ORDER BY attnum, depth DESC)
SELECT a.attname, format_type(b.type, NULL), NOT (a.attnotnull OR b.refuses_null),
    CASE WHEN a.attgenerated = '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), b.fallback) END,
    a.attgenerated <> '' OR a.attidentity <> '', format_type(b.type, b.modifier)
FROM bases AS b
INNER JOIN pg_attribute AS a ON a.attrelid = to_regclass(%(table)s) AND a.attnum = b.attnum
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum ORDER BY a.attnum
"""


@dataclass(frozen=True)
class DeclaredStream:
    """What Feast's definitions alone say of a stream; ``bootstrap`` is empty where none is said."""

    name: str
    topic: str
    group: str
    bootstrap: str
    table: str


def declared_streams(contents: RepoContents, project: str) -> dict[str, DeclaredStream]:
    """The declared streams by name; the database is not asked.

    Raises:
        DefinitionError: a stream names no topic or no history table, or two share what must be
            each one's own.
    """
    tables = history_sources(contents.data_sources)
    streams: dict[str, DeclaredStream] = {}
    places: dict[tuple[str, str], str] = {}
    for source in contents.data_sources:
        if not isinstance(source, KafkaSource):
            continue
        batch, options = source.batch_source, source.kafka_options
        if batch is None or batch.name not in tables:
            raise DefinitionError(
                f"The stream {source.name} must say which history table its events are rows of: "
                "set its batch_source to a PostgreSQLSource with the tag keys."
            )
        if not options.topic:
            raise DefinitionError(f"The stream {source.name} must name its topic.")
        group = source.tags.get("group") or f"skewless-{project}-{source.name}"
        other = places.setdefault((group, options.topic), source.name)
        if other != source.name:
            raise DefinitionError(
                f"The streams {other} and {source.name} read topic {options.topic} in one group: "
                "give one of them another group (tag group)."
            )
        streams[source.name] = DeclaredStream(
            source.name, options.topic, group, options.kafka_bootstrap_servers, batch.name
        )
    return streams


@dataclass(frozen=True)
class Sources:
    """The declared history tables and event streams, by the names of their Feast sources."""

    tables: Mapping[str, HistoryTable]
    streams: Mapping[str, EventStream]

    def table(self, name: str) -> HistoryTable:
        """A history table by name.

        Raises:
            DefinitionError: there is none of that name.
        """
        return _named(name, self.tables, "history source")

    def stream(self, name: str) -> EventStream:
        """An event stream by name.

        Raises:
            DefinitionError: there is none of that name.
        """
        return _named(name, self.streams, "stream")


def load_sources(contents: RepoContents, conn: psycopg.Connection, project: str) -> Sources:
    """All history tables and event streams that a repository declares.

    Raises:
        DefinitionError: a table is not there, a tag names a column that it does not have, or a
            stream's batch source is no history table.
    """
    declared = history_sources(contents.data_sources)
    tables = {}
    for source in contents.data_sources:
        if source.name in declared:
            history = declared[source.name]
            check_source_columns(conn, history)
            tables[source.name] = HistoryTable(
                name=source.name,
                source=history,
                columns=_columns(conn, history.table),
                id=source.tags.get("id"),
                partition=source.tags.get("partition"),
                deleted=source.tags.get("deleted"),
                oldest=_oldest(source.tags.get("oldest")),
                imports={
                    tag.removeprefix("import."): text
                    for tag, text in source.tags.items()
                    if tag.startswith("import.")
                },
            )
    for table in tables.values():
        imported = [(f"import.{column}", column) for column in table.imports]
        for tag, column in (("id", table.id), ("deleted", table.deleted), *imported):
            if column is not None and column not in table.by_name:
                raise DefinitionError(
                    f"The tag {tag} of source {table.name} names {column}, which is no column of "
                    f"{table.table}.{did_you_mean(column, table.by_name)}"
                )
    known = declared_streams(contents, project)
    streams = {
        source.name: _stream(source, known[source.name], tables)
        for source in contents.data_sources
        if isinstance(source, KafkaSource)
    }
    return Sources(tables, streams)


def _columns(conn: psycopg.Connection, table: str) -> tuple[Column, ...]:
    relation = sql.Identifier(table).as_string(None)
    return tuple(Column(*row) for row in conn.execute(_COLUMNS, {"table": relation}).fetchall())


def _stream(
    source: KafkaSource, declared: DeclaredStream, tables: Mapping[str, HistoryTable]
) -> EventStream:
    table, tags, options = tables[declared.table], source.tags, source.kafka_options
    units = {
        tag.removeprefix("time_unit.") if "." in tag else table.time: unit
        for tag, unit in tags.items()
        if tag.partition(".")[0] == "time_unit"
    }
    for column in [*source.field_mapping.values(), *units]:
        if column not in table.by_name and "convert" not in tags:
            raise DefinitionError(
                f"The stream {source.name} names {column}, which is no column of {table.table}."
                f"{did_you_mean(column, table.by_name)}"
            )
    # The words of the tags were checked when the definitions were read.
    found: Any = {
        tag: tags[tag] for tag in ("envelope", "decoder", "convert", "encode") if tag in tags
    }
    found["unknown"] = tags.get("unknown_fields", "ignore")
    found["missing"] = tags.get("missing_fields", "default")
    found["time_units"] = units
    return EventStream(
        name=source.name,
        topic=declared.topic,
        table=table,
        group=declared.group,
        message_format=options.message_format,
        field_mapping=dict(source.field_mapping),
        coerce=tags.get("coerce") == "true",
        max_future=read_duration(tags.get("max_future", "")) or timedelta(minutes=5),
        max_lateness=options.watermark_delay_threshold or None,
        registry_url=tags.get("schema_registry"),
        bootstrap=declared.bootstrap,
        **found,
    )


def _oldest(text: str | None) -> datetime:
    if text is None:
        return OLDEST
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _named(name: str, known: Mapping[str, T], what: str) -> T:
    if name not in known:
        raise DefinitionError(
            f"There is no {what} {name}; declared are {', '.join(sorted(known)) or 'none'}."
            f"{did_you_mean(name, known)}"
        )
    return known[name]
