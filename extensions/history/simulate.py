"""`skewless simulate`: loads the history that the repository's own simulator generates."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from extensions.errors import ConfigurationError, InputError
from extensions.history.bulk_load import LoadResult, Progress, load_events, load_items

SIMULATOR = "feature_repo.simulator"


class Simulation(Protocol):
    """What a repository's simulator must offer; equal simulations generate equal histories."""

    @property
    def deliveries(self) -> int:
        """Number of event rows, duplicates included."""

    def item_batches(self) -> Iterator[pa.RecordBatch]:
        """The items' history, in order of arrival."""

    def event_batches(self) -> Iterator[pa.RecordBatch]:
        """The events, in order of arrival, in batches of bounded size."""

    def to_json(self) -> dict[str, Any]:
        """The simulation's parameters as JSON types."""


@dataclass(frozen=True)
class SimulationResult:
    """A simulation, and how many of its rows were new."""

    simulation: Simulation
    items: LoadResult
    events: LoadResult

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "simulation": self.simulation.to_json(),
            "items": self.items.to_json(),
            "events": self.events.to_json(),
        }


def new_simulation(repo_root: Path, **parameters: Any) -> Simulation:
    """A simulation of the repository's simulator (module ``feature_repo.simulator``).

    Raises:
        ConfigurationError: the repository has no simulator.
        InputError: the simulator refuses the parameters.
    """
    if str(repo_root) not in sys.path:
        sys.path.append(str(repo_root))
    try:
        module = importlib.import_module(SIMULATOR)
    except ModuleNotFoundError as error:
        if error.name is None or not SIMULATOR.startswith(error.name):
            raise
        raise ConfigurationError(
            "This repository has no simulator (feature_repo/simulator): "
            "import files with `skewless import` instead."
        ) from error
    try:
        simulation: Simulation = module.Simulation(**parameters)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error
    return simulation


def simulate(
    url: str, simulation: Simulation, *, progress: Progress | None = None
) -> SimulationResult:
    """Load the items and events of a simulation; loading an equal one again adds nothing.

    ``progress(done, total)`` counts events.

    Raises:
        SkewlessError: the database does not answer, or has no tables yet.
    """
    items = load_items(url, simulation.item_batches())
    events = load_events(
        url, simulation.event_batches(), total=simulation.deliveries, progress=progress
    )
    return SimulationResult(simulation, items, events)
