"""The views that follow the stream: every live version whose freshness is realtime."""

from collections.abc import Sequence
from dataclasses import dataclass

from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException

from extensions.asof import Computation, Freshness, load_computations
from extensions.errors import SkewlessError
from streaming.decode import WatchEvent
from streaming.settings import Settings

EVENTS = "watch_events"


@dataclass(frozen=True)
class LiveView:
    """A view version: how it is computed, and how Feast knows it online."""

    computation: Computation
    feature_view: FeatureView

    @property
    def follows_events(self) -> bool:
        """Whether a watch event names the view's entities; other views are left to the sweep."""
        return self.computation.reads[0].table == EVENTS and set(self.computation.join_keys) <= set(
            WatchEvent._fields
        )

    def entities(self, events: Sequence[WatchEvent]) -> set[tuple[int, ...]]:
        """The distinct join keys of ``events``."""
        at = [WatchEvent._fields.index(key) for key in self.computation.join_keys]
        if len(at) == 1:
            return {(event[at[0]],) for event in events}  # type: ignore[misc]
        return {tuple(event[i] for i in at) for event in events}  # type: ignore[misc]


def live_views(settings: Settings, feast_store: FeatureStore) -> list[LiveView]:
    """The realtime views of the repository, with the registry's view of the same version.

    Raises:
        SkewlessError: a view is not in the registry.
    """
    return [
        LiveView(computation, _registered(feast_store, computation))
        for computation in load_computations(settings.repo_root).values()
        if computation.freshness is Freshness.REALTIME
    ]


def _registered(feast_store: FeatureStore, computation: Computation) -> FeatureView:
    registry, project = feast_store.registry, feast_store.project
    try:
        found = registry.get_feature_view_by_version(computation.view, project, computation.version)
    except FeastObjectNotFoundException:
        found = None
    if not isinstance(found, FeatureView):
        raise SkewlessError(
            f"View {computation.view} v{computation.version} is not in the registry: "
            "run `feast apply`."
        )
    return found
