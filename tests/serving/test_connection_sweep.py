"""The sweep of connections goes on whatever a connection, or the sweep itself, does wrong."""

import asyncio

import pytest

from extensions import thread_supervision
from extensions.serving.http import bounded_http_protocol
from extensions.serving.http.bounded_http_protocol import ConnectionSweep


class Connection:
    """Counts what is done with it."""

    keeps_up = True

    def __init__(self, *, broken: bool = False) -> None:
        self.broken, self.swept, self.aborted = broken, 0, 0

    def sweep(self, _: float) -> None:
        self.swept += 1
        if self.broken:
            raise KeyError("unforeseen")

    def abort(self) -> None:
        self.aborted += 1


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http_protocol, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(thread_supervision, "PAUSE_FIRST", 0.01)


def run(sweep: ConnectionSweep, seconds: float = 0.5) -> None:
    async def serve() -> None:
        sweep.start()
        await asyncio.sleep(seconds)
        assert all(thread.is_alive() for thread in sweep.threads)
        sweep.stop()

    asyncio.run(serve())


def test_a_connection_that_cannot_be_swept_is_ended_and_hinders_no_other() -> None:
    broken, well = Connection(broken=True), Connection()
    sweep = ConnectionSweep([well, broken, well])
    run(sweep)
    assert broken.aborted == broken.swept > 2
    assert well.swept == 2 * broken.swept
    assert well.aborted == 0
    [thread] = sweep.threads
    assert thread.deaths == 0


def test_a_sweep_that_fails_begins_anew_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []

    def failing(_: ConnectionSweep) -> None:
        failures.append(1)
        if len(failures) == 1:
            raise KeyError("unforeseen")

    monkeypatch.setattr(ConnectionSweep, "_end_unread", failing)
    well = Connection()
    sweep = ConnectionSweep([well])
    run(sweep)
    assert well.swept > 2
    [thread] = sweep.threads
    assert thread.deaths == 1
