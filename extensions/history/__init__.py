"""Loading history: from a user's own files, or from the repository's simulator."""

from extensions.history.bulk_load import LoadResult, load_events, load_items
from extensions.history.column_mapping import parse_mapping
from extensions.history.file_import import ImportResult, import_events, import_items
from extensions.history.simulate import SimulationResult, new_simulation, simulate

__all__ = [
    "ImportResult",
    "LoadResult",
    "SimulationResult",
    "import_events",
    "import_items",
    "load_events",
    "load_items",
    "new_simulation",
    "parse_mapping",
    "simulate",
]
