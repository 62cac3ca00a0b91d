"""Loading computations: the Feast definitions of a repository, and the SQL files beside them."""

import contextlib
import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import FeatureView, PushSource
from feast.data_source import DataSource
from feast.repo_contents import RepoContents
from feast.repo_operations import parse_repo
from feast.types import from_value_type

from extensions.asof.aggregations.compiler import AggregatedView, compiled_sql
from extensions.asof.aggregations.completion import complete_contents, primary_source
from extensions.asof.aggregations.declaration import (
    aggregated_features,
    aggregations_of,
    canonical,
    view_filter,
)
from extensions.asof.computation import Computation, FeatureColumn, Freshness, HistorySource
from extensions.asof.default_parsing import read_default
from extensions.asof.definition_validation import check_contents, split_names
from extensions.asof.durations import read_duration
from extensions.asof.sql_normalization import normalised
from extensions.asof.sql_windows import window_problems
from extensions.errors import DefinitionError
from extensions.feature_types import pg_type
from extensions.repository import import_definitions
from extensions.suggestions import did_you_mean
from extensions.version_names import DEFINITIONS, log_table, sql_file, view_version


def load_computations(repo_root: Path) -> dict[str, Computation]:
    """Read the Feast repository at ``repo_root`` and the SQL beside it, by ``view.vN``.

    Raises:
        SkewlessError: a view lacks its SQL file or a tag, a tag cannot be read, or a
            computation's file belongs to no view.
    """
    return computations_in(read_repository(repo_root), repo_root)


def read_repository(repo_root: Path) -> RepoContents:
    """All that the Feast repository at ``repo_root`` defines.

    Raises:
        ConfigurationError: this process has imported the definitions of another one.
    """
    repo_root = repo_root.resolve()
    import_definitions(repo_root)
    # Feast lists every file below the folder it is given, including a virtual environment's
    # thousands, so it gets the folder of definitions only.
    with contextlib.chdir(repo_root):
        return complete_contents(parse_repo(repo_root / DEFINITIONS))


def computations_in(contents: RepoContents, repo_root: Path) -> dict[str, Computation]:
    """As `load_computations`, of a repository that has been read."""
    repo_root = repo_root.resolve()
    check_contents(contents)
    entities = {entity.name: entity for entity in contents.entities}
    found = {}
    for view in contents.feature_views:
        if "freshness" in view.tags:
            keys = [
                (entities[name].join_key, pg_type(from_value_type(entities[name].value_type)))
                for name in view.entities
            ]
            computation = declared_computation(repo_root, view, keys, contents.data_sources)
            found[computation.name] = computation
    return dict(sorted(found.items()))


def declared_computation(
    repo_root: Path,
    view: FeatureView,
    keys: Iterable[tuple[str, str]],
    data_sources: Collection[DataSource],
) -> Computation:
    """What the files say of a view: its SQL file, or its aggregations, compiled.

    Args:
        repo_root: The repository.
        view: The view; one with aggregations is completed.
        keys: The view's join keys and their types in PostgreSQL.
        data_sources: The sources that the repository declares.

    Raises:
        DefinitionError: there is neither a file nor an aggregation, or both and they differ; or
            a window of the text is longer than the horizon, or has no fixed length.
    """
    path = repo_root / sql_file(view.name, view_version(view))
    text = path.read_text().strip().removesuffix(";") if path.is_file() else None
    declared = computation_of(view, keys, data_sources, text or "")
    if not aggregations_of(view):
        if text is None:
            raise DefinitionError(
                f"View {view.name} has no computation: write {path.relative_to(repo_root)}."
            )
        problems = [] if declared.decays else window_problems(view.name, text, declared.horizon)
        if told := " ".join(dict.fromkeys(problems)):
            raise DefinitionError(told)
        return declared
    compiled = _compiled(view, declared, data_sources)
    if text is not None and normalised(text) != normalised(compiled.sql):
        raise DefinitionError(
            f"View {view.name} has aggregations and {path.relative_to(repo_root)}, which say "
            "different things: take the aggregations out, for the file to count, or the file."
        )
    return compiled if text is None else declared


def _compiled(
    view: FeatureView, declared: Computation, data_sources: Collection[DataSource]
) -> Computation:
    features, [source] = aggregated_features(view), declared.reads
    for key in declared.join_keys:
        if key not in source.keys:
            raise DefinitionError(
                f"View {view.name} aggregates {source.table}, whose keys are "
                f"{', '.join(source.keys)}, by {key}: name it in the tag keys of the source."
            )
    id_column = primary_source(view, data_sources).tags.get("id")
    defaults = [
        read_default(view.name, field.name, field.tags["default"], field.dtype)
        for field in view.features
    ]
    columns = tuple(
        replace(column, default=default)
        for column, default in zip(declared.features, defaults, strict=True)
    )
    compiled = compiled_sql(
        AggregatedView(
            view=view.name,
            keys=declared.join_keys,
            source=source,
            id_column=id_column,
            filter=view_filter(view),
            features=features,
            columns=columns,
        )
    )
    return replace(
        declared,
        sql=compiled,
        declaration=canonical(features, view_filter(view), id_column),
    )


def computation_of(
    view: FeatureView,
    keys: Iterable[tuple[str, str]],
    data_sources: Iterable[DataSource],
    text: str,
) -> Computation:
    """A view with its SQL text; ``keys``: its join keys and their types in PostgreSQL.

    Raises:
        DefinitionError: a tag is missing or cannot be read, or the source is not the view's log.
    """
    version = view_version(view)
    owners = list(keys)
    sources = history_sources(data_sources)
    batch = view.source.batch_source if isinstance(view.source, PushSource) else view.batch_source
    expected = log_table(view.name, version)
    if batch is None or batch.name != expected:
        if aggregations_of(view):
            raise DefinitionError(
                f"View {view.name} must aggregate a history: set its source to a PostgreSQLSource "
                "with the tag keys."
            )
        raise DefinitionError(
            f"View {view.name} must read the log {expected}: set its source to log(…) of that "
            "view and version."
        )
    return Computation(
        view=view.name,
        version=version,
        sql=text,
        join_keys=tuple(name for name, _ in owners),
        key_types=tuple(kind for _, kind in owners),
        features=tuple(
            FeatureColumn(
                name=field.name, pg_type=pg_type(field.dtype), default=_default(view, field)
            )
            for field in view.features
        ),
        horizon=_horizon(view),
        freshness=_freshness(view),
        decays=view.tags.get("decays") == "true",
        reads=_reads(view, sources),
    )


def history_sources(data_sources: Iterable[DataSource]) -> dict[str, HistorySource]:
    """The sources that are history tables (tag ``keys``), by name."""
    sources = {}
    for source in data_sources:
        if "keys" in source.tags:
            table: Any = source
            sources[source.name] = HistorySource(
                table=table.get_table_query_string().strip('"'),
                keys=split_names(source.tags["keys"]),
                time=source.timestamp_field,
                arrival=source.created_timestamp_column or source.timestamp_field,
            )
    return sources


def _default(view: FeatureView, field: Any) -> Any:
    if "default" not in field.tags:
        raise DefinitionError(
            f"Feature {view.name}:{field.name} has no default: give its Field "
            'tags={"default": "…"} (JSON).'
        )
    try:
        read_default(view.name, field.name, field.tags["default"], field.dtype)
        return json.loads(field.tags["default"])
    except ValueError as error:
        raise DefinitionError(str(error)) from error


def _horizon(view: FeatureView) -> timedelta | None:
    text = view.tags.get("horizon")
    if text is None:
        return None
    horizon = read_duration(text)
    if horizon is None:
        raise DefinitionError(
            f"The horizon of {view.name} must read like '7 days' or '12 hours', not {text!r}."
        )
    return horizon


def _freshness(view: FeatureView) -> Freshness:
    try:
        return Freshness(view.tags["freshness"])
    except ValueError as error:
        raise DefinitionError(
            f"The freshness of {view.name} must be realtime, hourly or daily, "
            f"not {view.tags['freshness']!r}."
        ) from error


def _reads(view: FeatureView, sources: dict[str, HistorySource]) -> tuple[HistorySource, ...]:
    names = [name.strip() for name in view.tags.get("reads", "").split(",") if name.strip()]
    unknown = [name for name in names if name not in sources]
    if not names or unknown or len(set(names)) < len(names):
        what = f"and names {', '.join(unknown)}" if unknown else "each once"
        raise DefinitionError(
            f"View {view.name} must say which history sources it reads (tag reads), {what}; "
            f"known are {', '.join(sorted(sources))}."
            + "".join(did_you_mean(name, sources) for name in unknown)
        )
    return tuple(sources[name] for name in names)
