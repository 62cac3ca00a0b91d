"""A reader of the lake's tables, and which snapshots it read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from extensions.asof.log_cuts import Cut
from extensions.errors import ConflictError
from extensions.lake.catalog import open_catalog
from extensions.lake.commits import exported_through
from extensions.lake.settings import read_settings
from extensions.value_text import exact_time_text

if TYPE_CHECKING:
    from pyiceberg.table import Table


@dataclass(frozen=True)
class LakeReader:
    """Opens tables of a repository's lake.

    Attributes:
        repository: Whose settings say where the lake is.
        url: The database with the catalog.
        project: The namespace.
        pinned: Snapshots to read, by table; of others the current one is read, and also where the
            pinned one has expired, or is older than what was cut since.
        used: The snapshots that were read.
    """

    repository: Path
    url: str
    project: str
    pinned: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def tables(self, cuts: Iterable[Cut]) -> Iterator[dict[str, tuple["Table", int]]]:
        """The tables of logs that were cut, and the snapshot of each that is to be read.

        Raises:
            ConflictError: one is not in the lake as far as it was cut.
        """
        found = {}
        with open_catalog(self.url, self.project, read_settings(self.repository)) as catalog:
            for cut in cuts:
                held = None
                if catalog.table_exists((self.project, cut.log)):
                    held = catalog.load_table((self.project, cut.log))
                snapshot = None if held is None else self._snapshot(held, cut)
                if held is None or snapshot is None:
                    raise ConflictError(
                        f"The log {cut.log} was cut, and the lake does not hold what it held then "
                        f"(all rows that arrived by {exact_time_text(cut.exported_through)}): "
                        "bring the lake's warehouse and catalog back."
                    )
                self.used[cut.log] = snapshot
                found[cut.log] = (held, snapshot)
            yield found

    def _snapshot(self, held: "Table", cut: Cut) -> int | None:
        current = held.current_snapshot()
        newest = None if current is None else current.snapshot_id
        for one in (self.pinned.get(cut.log), newest):
            if one is None or held.snapshot_by_id(one) is None:
                continue
            # What was cut later than a pinned snapshot is in later ones alone.
            through = exported_through(held, one)
            if through is not None and through >= cut.exported_through:
                return one
        return None
