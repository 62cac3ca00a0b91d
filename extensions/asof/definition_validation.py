"""Validation of definitions when they are read: names, lengths, tags, defaults, collisions.

Refuses what PostgreSQL would truncate, Redis would confuse or the engine would silently ignore,
before anything is created from it.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import psycopg
from feast import FeatureService, FeatureView, KafkaSource, OnDemandFeatureView
from feast.repo_contents import RepoContents

from extensions.asof.aggregations.catalogue_check import check_aggregations
from extensions.asof.aggregations.declaration_check import (
    aggregation_problems,
    stray_tag_problems,
)
from extensions.asof.aggregations.functions import FUNCTION_TAGS
from extensions.asof.default_parsing import read_default
from extensions.asof.durations import DURATION
from extensions.database.identifier_limits import BACKFILLED, LONGEST_NAME
from extensions.errors import DefinitionError
from extensions.feast_internals import written_features
from extensions.service_routes import NAMES_TAG, ROUTE_TAG, leading_first, service_problems
from extensions.suggestions import did_you_mean, nearest

# The tags that have a meaning here. Others are the user's own, unless they look like a misspelling.
VIEW_TAGS = ("freshness", "horizon", "decays", "reads", "near", "filter")
FIELD_TAGS = ("default", "filter", *FUNCTION_TAGS)
SERVICE_TAGS = (ROUTE_TAG, NAMES_TAG)
TABLE_TAGS = ("keys", "id", "partition", "deleted", "oldest")
STREAM_TAGS = (
    "group", "envelope", "decoder", "convert", "encode",
    "time_unit", "unknown_fields", "missing_fields",
    "coerce", "max_future", "schema_registry",
)  # fmt: skip
# A source's tags that have one of some values.
_WORDS = {
    "partition": ("month", "day"),
    "envelope": ("debezium", "cloudevents"),
    "time_unit": ("iso", "s", "ms", "us", "ns"),
    "unknown_fields": ("ignore", "dead-letter"),
    "missing_fields": ("default", "dead-letter"),
    "coerce": ("true", "false"),
}
_BOOLEAN_TAGS = ("decays", "near")
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Columns that a log has beside keys and features, and the engine's own.
_TAKEN = frozenset({"event_timestamp", "created_timestamp", "as_of", BACKFILLED})


def check_contents(contents: RepoContents) -> None:
    """Refuse definitions that would be misread.

    Raises:
        DefinitionError: one sentence for each thing that is wrong.
    """
    views = [*contents.feature_views, *contents.on_demand_feature_views]
    problems = [problem for view in views for problem in view_problems(view)]
    problems += [problem for view in views for problem in stray_tag_problems(view)]
    problems += [p for source in contents.data_sources for p in source_problems(source)]
    problems += list(_collisions(views))
    for service in contents.feature_services:
        problems += _tag_problems(f"Service {service.name}", service.tags, SERVICE_TAGS)
    problems += service_problems(
        (each.name, each.tags, _service_keys(each, contents)) for each in contents.feature_services
    )
    if problems:
        raise DefinitionError(" ".join(dict.fromkeys(problems)))


def _service_keys(service: FeatureService, contents: RepoContents) -> tuple[str, ...] | None:
    """The service's join keys as its routes know them; None: unknown views are read."""
    join_keys = {entity.name: entity.join_key for entity in contents.entities}
    views = {view.name: view for view in contents.feature_views}
    transforms = {view.name: view for view in contents.on_demand_feature_views}
    read: list[str] = []
    for written in written_features(service):
        if not isinstance(written, str) and written.projection.join_key_map:
            return None  # asked for by other keys
        name = re.split("[@:]", written)[0] if isinstance(written, str) else written.name
        if name in transforms:
            read += [
                each.name for each in transforms[name].source_feature_view_projections.values()
            ]
        else:
            read.append(name)
    if not all(name in views and set(views[name].entities) <= set(join_keys) for name in read):
        return None
    of_views = [[join_keys[entity] for entity in views[name].entities] for name in read]
    return leading_first(list(dict.fromkeys(itertools.chain(*of_views))), of_views) or None


def check_aliases(service: FeatureService, transforms: Iterable[OnDemandFeatureView]) -> None:
    """Refuse a view under the name of another one that the service reads: Feast knows them by name.

    Args:
        service: as Feast has looked its views up.
        transforms: the project's, of which the service may read some.

    Raises:
        DefinitionError: a name means two views.
    """
    sources = {each.name: each.source_feature_view_projections for each in transforms}
    listed = service.feature_view_projections
    read = {each.name for each in listed}
    read |= {source.name for each in listed for source in sources.get(each.name, {}).values()}
    for each in listed:
        if each.name_alias and each.name_alias != each.name and each.name_alias in read:
            raise DefinitionError(
                f"Service {service.name} reads {each.name} under the name {each.name_alias}, and "
                f"the view {each.name_alias} itself: give it another name."
            )


def check_view(view: Any) -> None:
    """As `check_contents`, of one view.

    Raises:
        DefinitionError: something about it is wrong.
    """
    if problems := list(view_problems(view)):
        raise DefinitionError(" ".join(problems))


def view_problems(view: Any) -> Iterator[str]:
    """What is wrong with a view by itself."""
    yield from _tag_problems(f"View {view.name}", view.tags, VIEW_TAGS)
    for tag in _BOOLEAN_TAGS:
        if view.tags.get(tag, "true") not in ("true", "false"):
            yield (
                f'The tag {tag} of view {view.name} must be "true" or "false", '
                f"not {view.tags[tag]!r}."
            )
    for field in view.features:
        yield from _tag_problems(f"Field {view.name}:{field.name}", field.tags, FIELD_TAGS)
        if "default" in field.tags:
            try:
                read_default(view.name, field.name, field.tags["default"], field.dtype)
            except ValueError as error:
                yield str(error)
    yield from aggregation_problems(view)
    for source in getattr(view, "source_feature_view_projections", {}).values():
        if used := source.name_alias:  # Feast looks for its own name: a KeyError in training
            yield (
                f"The transform {view.name} reads {source.name} under the name {used}: "
                "no training set can be made of it. Read the view by its own name."
            )
    if isinstance(view, FeatureView) and "freshness" in view.tags:
        yield from _maintained_problems(view)


def _maintained_problems(view: FeatureView) -> Iterator[str]:
    """Names that become names of tables, columns and indexes."""
    if not _PLAIN_NAME.fullmatch(view.name):
        yield (
            f"View {view.name!r} is computed into a table of its name: write it in small letters, "
            "digits and underscores."
        )
    log = f"{view.name}_{view.version if str(view.version).startswith('v') else 'v1'}"
    if len(log.encode()) > LONGEST_NAME:
        yield (
            f"The log {log} of view {view.name} has a name of {len(log.encode())} bytes, of which "
            f"PostgreSQL keeps {LONGEST_NAME}: give the view a shorter name."
        )
    keys = [column.name for column in view.entity_columns]
    for name in [*keys, *(field.name for field in view.features)]:
        if not _COLUMN_NAME.fullmatch(name):
            yield (
                f"{view.name}:{name} becomes a column: write it in letters, digits and underscores."
            )
        if len(name.encode()) > LONGEST_NAME:
            yield (
                f"{view.name}:{name} becomes a column, and PostgreSQL keeps {LONGEST_NAME} bytes "
                "of its name: give it a shorter one."
            )
        if name in _TAKEN:
            yield f"{view.name}:{name} has the name of a column that each log has: choose another."
    for name, times in Counter([*keys, *(field.name for field in view.features)]).items():
        if times > 1:
            yield f"View {view.name} has {name} more than once: name each column once."


def source_problems(source: Any) -> Iterator[str]:
    """What is wrong with a data source's tags."""
    known = STREAM_TAGS if isinstance(source, KafkaSource) else TABLE_TAGS
    plain = {tag: text for tag, text in source.tags.items() if not tag.startswith("time_unit.")}
    yield from _tag_problems(f"Source {source.name}", plain, known)
    if not (isinstance(source, KafkaSource) or "keys" in source.tags):
        return
    if "keys" in source.tags:
        keys = split_names(source.tags["keys"])
        if not keys or "" in keys:
            yield (
                f"The tag keys of source {source.name} must name columns, separated by commas, "
                f"not {source.tags['keys']!r}."
            )
        if len(set(keys)) < len(keys):
            yield f"The tag keys of source {source.name} names a column twice."
    for tag, text in source.tags.items():
        words = _WORDS.get(tag.partition(".")[0], ())
        if words and text not in words:
            yield (
                f"The tag {tag} of source {source.name} must be one of {', '.join(words)}, "
                f"not {text!r}."
            )
    if not DURATION.fullmatch(source.tags.get("max_future", "1 day")):
        yield f"The tag max_future of source {source.name} must read like '5 minutes'."
    try:
        datetime.fromisoformat(source.tags.get("oldest", "2000-01-01"))
    except ValueError:
        yield f"The tag oldest of source {source.name} must be a date, such as 1995-01-01."


def split_names(tag: str) -> tuple[str, ...]:
    """The names in a tag: separated by commas, with or without spaces."""
    return tuple(name.strip() for name in tag.split(","))


def _tag_problems(what: str, tags: Mapping[str, str], ours: tuple[str, ...]) -> Iterator[str]:
    for tag in tags or {}:
        if tag in ours:
            continue
        if near := nearest(tag, ours):
            yield (
                f"{what} has a tag {tag!r}, which means nothing here: did you mean {near}? "
                "(A tag of your own needs a name that is less like it.)"
            )


def _collisions(views: Iterable[Any]) -> Iterator[str]:
    """Views that would share a log or their rows in Redis, which are named ``view_vN``."""
    names = {view.name for view in views}
    for view in views:
        versioned = re.fullmatch(r"(.+)_v\d+", view.name)
        if versioned and versioned[1] in names and not isinstance(view, OnDemandFeatureView):
            yield (
                f"View {view.name} has the name of a version of view {versioned[1]}, whose log and "
                "rows would be its own: give it another name."
            )
    for name, times in Counter(view.name.lower() for view in views).items():
        if times > 1:
            yield f"There is more than one view {name}: give each a name of its own."


def check_sources(conn: psycopg.Connection, computations: Iterable[Any]) -> None:
    """Refuse sources and aggregations that name columns which their tables do not have.

    Raises:
        DefinitionError: a column is missing, and what there is.
    """
    asked = list(computations)
    for source in {source for computation in asked for source in computation.reads}:
        check_source_columns(conn, source)
    for computation in asked:
        check_aggregations(conn, computation)


def check_source_columns(conn: psycopg.Connection, source: Any) -> None:
    """As `check_sources`, of one source."""
    columns = [
        name
        for (name,) in conn.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [psycopg.sql.Identifier(source.table).as_string(None)],
        ).fetchall()
    ]
    if not columns:
        raise DefinitionError(
            f"The table {source.table} of a history source is not there: write a migration "
            "that makes it, or correct the source's table."
        )
    for what, name in [
        *(("tag keys", key) for key in source.keys),
        ("timestamp_field", source.time),
        ("created_timestamp_column", source.arrival),
    ]:
        if name not in columns:
            raise DefinitionError(
                f"The {what} of the source of table {source.table} names {name}, which is no "
                f"column of it (there are {', '.join(columns)})."
                f"{did_you_mean(name, columns)}"
            )
