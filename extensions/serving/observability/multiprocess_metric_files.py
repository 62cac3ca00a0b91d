"""The files through which several workers share their Prometheus metrics.

prometheus_client adds up what each process keeps in files. Here a file belongs to a worker's
place, not to its process: a worker that replaces another goes on with its counters, so that
nothing grows with the number of restarts, and gauges of a worker that has died are removed.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import values

from extensions.held_folders import held_folder

PREFIX, FEASTS = "skewless-metrics-", "feast_metrics_"
# prometheus_client and Feast read one each; both must name the same folder.
VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")


class MetricFiles:
    """The folder of metric files, and the name of this process's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = "supervisor"

    def name(self) -> str:
        """The name in this process's files."""
        return self._own

    def take(self, place: int) -> None:
        """In a worker: take the name of this place."""
        self._own = f"worker{place}"

    def start(self, place: int) -> None:
        """Before a worker starts: remove the gauges of its predecessor."""
        self.end(place)

    def end(self, place: int) -> None:
        """After a worker has died: remove its gauges."""
        for file in self.folder.glob(f"gauge_*_worker{place}.db"):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def metric_files(*, several: bool) -> Iterator[MetricFiles]:
    """A folder for the metrics of this server, removed in the end.

    A folder that is given by the variable is used as it is, and stays. Folders of servers that
    were killed are removed by the next one: nobody holds their locks.

    Args:
        several: Whether there is more than one worker.
    """
    given = next((os.environ[variable] for variable in VARIABLES if os.environ.get(variable)), None)
    # Feast makes a folder when it is imported: its own, or inherited from who started us.
    feasts = Path(given) if given and Path(given).name.startswith(FEASTS) else None
    if given is not None and feasts is None:
        files = MetricFiles(Path(given))
        _name_by(files, several=several)
        yield files
        return
    owner = os.getpid()
    with held_folder(PREFIX, Path(tempfile.gettempdir())) as folder:
        try:
            for variable in VARIABLES:
                os.environ[variable] = str(folder)
            if feasts is not None and _made_here():
                shutil.rmtree(feasts, ignore_errors=True)  # unused from now on
            files = MetricFiles(folder)
            _name_by(files, several=several)
            yield files
        finally:
            if os.getpid() == owner:
                for variable in VARIABLES:
                    os.environ.pop(variable, None)


def _made_here() -> bool:
    """Whether Feast made its folder in this process: one that was inherited has other users."""
    feasts = sys.modules.get("feast.metrics")
    return bool(getattr(feasts, "_owns_mp_dir", False)) and (
        getattr(feasts, "_owner_pid", None) == os.getpid()
    )


def _name_by(files: MetricFiles, *, several: bool) -> None:
    """Let prometheus_client name its files by the worker's place."""
    if several:
        values.ValueClass = values.MultiProcessValue(files.name)  # type: ignore[no-untyped-call]
