"""Watch history to start from: simulated, or a person's own files."""

from extensions.history.bulk_load import LoadResult, load_events, load_items
from extensions.history.column_mapping import parse_mapping
from extensions.history.file_import import ImportResult, import_events, import_items
from extensions.history.simulate import SimulationResult, history, simulate
from extensions.history.simulated_live_events import WatchEvent, live_events
from extensions.history.simulated_platform import Simulation, World

__all__ = [
    "ImportResult",
    "LoadResult",
    "Simulation",
    "SimulationResult",
    "WatchEvent",
    "World",
    "history",
    "import_events",
    "import_items",
    "live_events",
    "load_events",
    "load_items",
    "parse_mapping",
    "simulate",
]
