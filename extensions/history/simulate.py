"""`skewless simulate`: loads the history that the repository's own simulator generates."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from extensions.errors import ConfigurationError, DefinitionError, InputError
from extensions.repository import import_definitions
from extensions.suggestions import did_you_mean
from extensions.version_names import DEFINITIONS

if TYPE_CHECKING:
    import pyarrow as pa

    # Which import Feast; nobody should wait for it who mistyped a parameter.
    from extensions.history.bulk_load import LoadResult, Progress
    from extensions.sources import HistoryTable, Sources

SIMULATOR = f"{DEFINITIONS}.simulator"
# Of a simulator's parameters, those that an option can set.
_OPTION_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class Simulation(Protocol):
    """What a repository's simulator must offer: equal simulations generate equal histories.

    ``Simulation`` of the module ``feature_repo.simulator``, a dataclass whose fields are the
    parameters; those that are whole numbers, floats, texts or booleans are options of
    `skewless simulate`, and a field ``until`` (an aware time) is the history's end.
    """

    def histories(self) -> Mapping[str, "Iterator[pa.RecordBatch]"]:
        """By source, its rows in order of arrival, in batches of bounded size.

        Sources are loaded in this order.
        """

    @property
    def deliveries(self) -> Mapping[str, int]:
        """By source, how many rows it has, duplicates included."""

    def to_json(self) -> dict[str, Any]:
        """The simulation's parameters as JSON types."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a simulator that an option can set; ``help`` is the field's metadata."""

    name: str
    type: type
    default: Any
    help: str


@dataclass(frozen=True)
class SimulationResult:
    """A simulation, and by source how many of its rows were new."""

    simulation: Simulation
    loads: "Mapping[str, LoadResult]"

    @property
    def largest(self) -> "LoadResult":
        """The load of the most rows."""
        return max(self.loads.values(), key=lambda each: each.read)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "simulation": self.simulation.to_json(),
            "loads": {name: each.to_json() for name, each in self.loads.items()},
        }


def new_simulation(repo_root: Path, **parameters: Any) -> Simulation:
    """A simulation of the repository's simulator (module ``feature_repo.simulator``).

    Raises:
        ConfigurationError: the repository has no simulator, or another one was imported.
        InputError: the simulator refuses the parameters.
    """
    kind = _simulator(repo_root).Simulation
    known = [each.name for each in fields(kind)] if is_dataclass(kind) else None
    if known is not None:
        for name in parameters:
            if name not in known:
                raise InputError(
                    f"This repository's simulator has no parameter {name}: it has "
                    f"{', '.join(known)}.{did_you_mean(name, known)}"
                )
    try:
        simulation: Simulation = kind(**parameters)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error
    return simulation


def parameters_of(repo_root: Path) -> list[Parameter]:
    """The parameters of the repository's simulator that options can set.

    Raises:
        ConfigurationError: the repository has no simulator.
    """
    kind = _simulator(repo_root).Simulation
    if not is_dataclass(kind):
        return []
    found = []
    for each in fields(kind):
        name = each.type if isinstance(each.type, str) else each.type.__name__
        if each.init and name in _OPTION_TYPES and each.default is not MISSING:
            about = str(each.metadata.get("help", ""))
            found.append(Parameter(each.name, _OPTION_TYPES[name], each.default, about))
    return found


def simulate(
    url: str, simulation: Simulation, sources: "Sources", *, progress: "Progress | None" = None
) -> SimulationResult:
    """Load the histories of a simulation; loading an equal one again adds nothing.

    ``progress(done, total)`` counts the rows of all of them.

    Raises:
        DefinitionError: the simulator names a source that is not declared.
        SkewlessError: the database does not answer, or has no tables yet.
    """
    from extensions.history.bulk_load import load  # noqa: PLC0415 - see above

    deliveries = simulation.deliveries
    total = sum(deliveries.values())
    loads: dict[str, LoadResult] = {}
    before = 0
    for name, batches in simulation.histories().items():
        table: HistoryTable = sources.table(name)

        def report(done: int, _: int | None, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        loads[name] = load(url, table, batches, total=deliveries.get(name), progress=report)
        if loads[name].rejected:
            [(why, rows), *_] = loads[name].reasons.items()
            raise DefinitionError(
                f"The table {table.table} refuses {loads[name].rejected} rows of the simulator: "
                f"{rows} because {why}."
            )
        before += loads[name].read
    return SimulationResult(simulation, loads)


def _simulator(repo_root: Path) -> ModuleType:
    import_definitions(repo_root)
    try:
        return importlib.import_module(SIMULATOR)
    except ModuleNotFoundError as error:
        if error.name is None or not SIMULATOR.startswith(error.name):
            raise
        raise ConfigurationError(
            "This repository has no simulator (feature_repo/simulator): "
            "import files with `skewless import` instead."
        ) from error
