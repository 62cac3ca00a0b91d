"""Threads and tasks that last: a failure begins them anew, and is seen; a vital one's is kept."""

import asyncio
import threading
import time

import pytest

from extensions import thread_supervision
from extensions.cli import exit_code_of
from extensions.errors import SkewlessError
from extensions.exit_codes import BROKEN
from extensions.thread_supervision import Lasting, LastingTask, Vital


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_supervision, "PAUSE_FIRST", 0.01)


def test_a_thread_that_fails_or_ends_begins_anew() -> None:
    stopping, begun = threading.Event(), []

    def body() -> None:
        begun.append(1)
        if len(begun) == 1:
            raise KeyError("unforeseen")
        if len(begun) > 2:
            stopping.wait()

    thread = Lasting("busy", body, stopping)
    thread.start()
    until = time.monotonic() + 10
    while len(begun) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert thread.is_alive()
    assert thread.deaths == 2
    stopping.set()
    thread.join(5)
    assert not thread.is_alive()
    assert thread.deaths == 2


def test_a_task_that_fails_begins_anew_and_ends_with_its_body() -> None:
    async def watch() -> LastingTask:
        begun = []

        async def body() -> None:
            begun.append(1)
            if len(begun) < 3:
                raise KeyError("unforeseen")

        task = LastingTask("busy", body)
        assert task.is_alive()
        async with asyncio.timeout(10):
            while task.is_alive():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return task

    assert asyncio.run(watch()).deaths == 2


def test_a_vital_threads_failure_ends_the_process_that_checks() -> None:
    class Failing(Vital):
        def body(self) -> None:
            raise KeyError("unforeseen")

    class Ending(Vital):
        def body(self) -> None:
            """Nothing."""

    for kind in (Failing, Ending):
        thread = kind("busy")
        thread.check()
        thread.start()
        thread.join(5)
        if kind is Ending:
            thread.check()
            continue
        with pytest.raises(SkewlessError, match="'busy' ended") as caught:
            thread.check()
        assert exit_code_of(caught.value) == BROKEN
