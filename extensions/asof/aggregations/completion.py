"""Completing a view with aggregations: its log, its sources and what follows from its windows.

Its Feast source is the history that it aggregates, as Feast means it; what Feast stores, joins and
materializes is the log of its values. A completed view says so in Feast's own words (its batch
source, and the tags of a hand-written view), which is what the registry keeps.
"""

import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from feast import FeatureView
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_contents import RepoContents

from extensions.asof.aggregations.declaration import (
    aggregated_features,
    aggregations_of,
    decays,
    horizon_of,
)
from extensions.asof.aggregations.declaration_check import aggregation_problems
from extensions.asof.durations import duration_text
from extensions.version_names import log_table, view_version

# Feast says so of each batch view whenever one is made or copied; what is alpha in them (their
# transformations and engines) is not used here.
warnings.filterwarnings("ignore", "Batch feature views are experimental", RuntimeWarning)

# Where a completed view, which stays what it is for as long as its module is imported, keeps the
# history that its file gave it as its source.
_HISTORY = "aggregated_history"


def complete_contents(contents: RepoContents) -> RepoContents:
    """Complete the views of a repository that was read, in place, and add their logs to it."""
    for view in contents.feature_views:
        for source in complete(view):
            if not any(source is known for known in contents.data_sources):
                contents.data_sources.append(source)
    return contents


def complete(view: Any) -> tuple[Any, ...]:
    """Complete a view in place, if it has aggregations and nothing is wrong with them.

    Returns:
        The sources that belong to it: the history that it aggregates, and its log. None of a view
        without aggregations, and of one that was given its log as its source.
    """
    if not (isinstance(view, FeatureView) and aggregations_of(view)):
        return ()
    if any(aggregation_problems(view)):
        return ()  # told by `check_contents`
    history: Any = getattr(view, _HISTORY, view.batch_source)
    derived: dict[str, str] = {}
    if history is not None and "keys" in history.tags:
        derived["reads"] = history.name
        if history is view.batch_source:
            view.batch_source = view.source = _log(view)
            setattr(view, _HISTORY, history)
    features = aggregated_features(view)
    if (horizon := horizon_of(features)) is not None:
        derived["horizon"] = duration_text(horizon)
    if decays(features):
        derived["decays"] = "true"
    # A dictionary of its own: several views may have been given the same one.
    view.tags = {**derived, **view.tags}
    view.ttl = view.ttl or timedelta(0)
    return (history, view.batch_source) if "reads" in derived else ()


def _log(view: FeatureView) -> PostgreSQLSource:
    number = view_version(view)
    return PostgreSQLSource(
        name=log_table(view.name, number),
        table=log_table(view.name, number),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=f"The log of {view.name}, version {number}.",
    )


def completing(read: Callable[..., RepoContents]) -> Callable[..., RepoContents]:
    """Feast's reading of a repository, with its views completed."""

    def read_completely(*args: Any, **kwargs: Any) -> RepoContents:
        return complete_contents(read(*args, **kwargs))

    return read_completely


def primary_source(view: FeatureView, sources: Iterable[Any]) -> Any:
    """The Feast source that a completed view aggregates; None if it is not among ``sources``."""
    reads = view.tags.get("reads", "").strip()
    return next((each for each in sources if each.name == reads), None)
