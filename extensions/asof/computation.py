"""What a computation is: one view version's SQL with what its Feast view declares about it."""

import contextlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from feast import FeatureView, OnDemandFeatureView, PushSource
from feast.data_source import DataSource
from feast.repo_contents import RepoContents
from feast.repo_operations import parse_repo
from feast.types import Array, FeastType, PrimitiveFeastType, from_value_type

from extensions.asof.default_parsing import read_default
from extensions.asof.definition_validation import check_contents, split_names
from extensions.errors import DefinitionError
from extensions.suggestions import did_you_mean
from extensions.version_names import DEFINITIONS, log_table, sql_file, version_name


class Freshness(Enum):
    """How closely a view follows its events: the tick's period and the staleness budget."""

    REALTIME = "realtime"
    HOURLY = "hourly"
    DAILY = "daily"

    @property
    def period(self) -> timedelta | None:
        """Time between ticks; None for a view that follows each event."""
        return {"hourly": timedelta(hours=1), "daily": timedelta(days=1)}.get(self.value)

    @property
    def budget(self) -> timedelta:
        """How far the watermark may lag before values count as stale."""
        return {
            "realtime": timedelta(minutes=5),
            "hourly": timedelta(hours=2),
            "daily": timedelta(days=2),
        }[self.value]


@dataclass(frozen=True)
class HistorySource:
    """A table of things that happened: whose, when, and when the store could know."""

    table: str
    keys: tuple[str, ...]
    time: str
    arrival: str


@dataclass(frozen=True)
class FeatureColumn:
    """A feature as PostgreSQL holds it, and what an entity without history has."""

    name: str
    pg_type: str
    default: Any


@dataclass(frozen=True)
class Computation:
    """One version of a view: the SQL, and what the engine must know to ask it.

    ``reads[0]`` is the primary source: its rows carry the view's join keys, and an entity is
    active when one of them lies in the horizon. ``horizon`` None means that all history counts.
    """

    view: str
    version: int
    sql: str
    join_keys: tuple[str, ...]
    key_types: tuple[str, ...]
    features: tuple[FeatureColumn, ...]
    horizon: timedelta | None
    freshness: Freshness
    decays: bool
    reads: tuple[HistorySource, ...]

    @property
    def name(self) -> str:
        """``view.vN``, the stem of the computation's file."""
        return version_name(self.view, self.version)

    @property
    def log_table(self) -> str:
        """The append-only table of the values that were computed."""
        return log_table(self.view, self.version)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the SQL returns, in the engine's order."""
        return (*self.join_keys, "as_of", *(f.name for f in self.features))


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
    # Feast lists every file below the folder that it is given, an environment's thousands
    # included; definitions stand in one.
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
    """The version that the file names; ``latest`` and nothing count as 1, the first we make."""
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


_PG_TYPES = {
    "INT32": "integer",
    "INT64": "bigint",
    "FLOAT32": "real",
    "FLOAT64": "double precision",
    "STRING": "text",
    "BOOL": "boolean",
    "BYTES": "bytea",
    "UNIX_TIMESTAMP": "timestamptz",
}


def pg_type(feast_type: FeastType) -> str:
    """The PostgreSQL type that holds a Feast type without loss.

    Raises:
        DefinitionError: the type has no column of its own (maps, structs, images).
    """
    if isinstance(feast_type, Array):
        return pg_type(feast_type.base_type) + "[]"
    if isinstance(feast_type, PrimitiveFeastType) and feast_type.name in _PG_TYPES:
        return _PG_TYPES[feast_type.name]
    raise DefinitionError(f"A log table cannot hold the Feast type {feast_type}: use a plain type.")
