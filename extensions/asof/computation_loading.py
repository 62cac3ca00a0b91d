"""Loading computations: the Feast definitions of a repository, and the SQL files beside them."""

import contextlib
import json
import re
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import FeatureView, OnDemandFeatureView, PushSource
from feast.data_source import DataSource
from feast.repo_contents import RepoContents
from feast.repo_operations import parse_repo
from feast.types import from_value_type

from extensions.asof.computation import Computation, FeatureColumn, Freshness, HistorySource
from extensions.asof.default_parsing import read_default
from extensions.asof.definition_validation import check_contents, split_names
from extensions.errors import DefinitionError
from extensions.feature_types import pg_type
from extensions.suggestions import did_you_mean
from extensions.version_names import DEFINITIONS, log_table, sql_file


def load_computations(repo_root: Path) -> dict[str, Computation]:
    """Read the Feast repository at ``repo_root`` and the SQL beside it, by ``view.vN``.

    Raises:
        SkewlessError: a view lacks its SQL file or a tag, a tag cannot be read, or a
            computation's file belongs to no view.
    """
    return computations_in(read_repository(repo_root), repo_root)


def read_repository(repo_root: Path) -> RepoContents:
    """All that the Feast repository at ``repo_root`` defines."""
    repo_root = repo_root.resolve()
    if str(repo_root) not in sys.path:
        sys.path.append(str(repo_root))
    # Feast lists every file below the folder it is given, including a virtual environment's
    # thousands, so it gets the folder of definitions only.
    with contextlib.chdir(repo_root):
        return parse_repo(repo_root / DEFINITIONS)


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
            text = computation_sql(repo_root, view)
            computation = computation_of(view, keys, contents.data_sources, text)
            found[computation.name] = computation
    return dict(sorted(found.items()))


def computation_sql(repo_root: Path, view: FeatureView) -> str:
    """The text of the file that belongs to the view's version.

    Raises:
        DefinitionError: there is no such file.
    """
    path = repo_root / sql_file(view.name, view_version(view))
    if not path.is_file():
        raise DefinitionError(
            f"View {view.name} has no computation: write {path.relative_to(repo_root)}."
        )
    return path.read_text().strip().removesuffix(";")


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
    sources: dict[str, HistorySource] = {}
    for source in data_sources:
        if "keys" in source.tags:
            table: Any = source
            sources[source.name] = HistorySource(
                table=table.get_table_query_string().strip('"'),
                keys=split_names(source.tags["keys"]),
                time=source.timestamp_field,
                arrival=source.created_timestamp_column or source.timestamp_field,
            )
    batch = view.source.batch_source if isinstance(view.source, PushSource) else view.batch_source
    expected = log_table(view.name, version)
    if batch is None or batch.name != expected:
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


def view_version(view: FeatureView | OnDemandFeatureView) -> int:
    """The version number that a view declares; ``latest`` and none count as 1."""
    match = re.fullmatch(r"v?(\d+)", str(view.version or ""))
    return int(match.group(1)) if match else 1


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
    match = re.fullmatch(r"([1-9]\d{0,6}) (day|hour|minute)s?", text)
    if not match:
        raise DefinitionError(
            f"The horizon of {view.name} must read like '7 days' or '12 hours', not {text!r}."
        )
    return timedelta(**{match.group(2) + "s": int(match.group(1))})


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
