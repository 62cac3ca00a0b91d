"""Definitions as the repository's files declare them: views, versions and services."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feast import FeatureService, OnDemandFeatureView

from extensions.asof.computation_loading import computations_in, read_repository
from extensions.asof.definition_fingerprint import Definition
from extensions.stores.registry.version_publication import is_versioned, number_of
from extensions.version_names import DEFINITIONS


@dataclass(frozen=True)
class Declared:
    """The repository's files. ``unversioned``: transforms that name no version, which Feast
    changes in place.
    """

    definitions: Mapping[str, Definition]
    views: Mapping[str, Any]
    services: Mapping[str, FeatureService]
    unversioned: tuple[str, ...]

    def number(self, view: str) -> int | None:
        """The version of a view that its file names; None without a file."""
        definition = self.definitions.get(view)
        return definition.version if definition else None


def read_declared(repo_root: Path) -> Declared:
    """Read the repository at ``repo_root``.

    Raises:
        SkewlessError: a view lacks its version, its SQL or a tag.
    """
    contents = read_repository(repo_root)
    computations = computations_in(contents, repo_root)
    views: dict[str, Any] = {
        view.name: view
        for view in (*contents.feature_views, *contents.on_demand_feature_views)
        if is_versioned(view)
    }
    of_view = {c.view: c for c in computations.values()}
    return Declared(
        definitions={
            name: Definition.of_transform(view)
            if isinstance(view, OnDemandFeatureView)
            else Definition.of_computation(of_view[name], view)
            for name, view in sorted(views.items())
        },
        views=views,
        services={service.name: service for service in contents.feature_services},
        unversioned=tuple(
            sorted(
                view.name for view in contents.on_demand_feature_views if number_of(view) is None
            )
        ),
    )


def forget_modules() -> None:
    """Forget imported definition files, so that the next read imports the edited ones."""
    for name in [name for name in sys.modules if name.split(".")[0] == str(DEFINITIONS)]:
        del sys.modules[name]
