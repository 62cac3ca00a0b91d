"""A drift check whose PostgreSQL dies beneath it: one sentence, no verdict, and no traceback."""

from typing import Any

import psycopg
import pytest

from benchmarks import drift_platform as platform
from benchmarks.drift_platform import HOUR, SERVICE, START, STATIONARY
from extensions.database import connect
from extensions.failure_classification import of_a_server
from monitoring import suite
from monitoring.checks import drift_check, drift_store
from monitoring.checks.serving_log_window import Window
from monitoring.verdicts import OK
from tests.databases import cut

WINDOW = Window(SERVICE, START, START + HOUR)


@pytest.fixture
def served(fresh_database: str) -> str:
    with connect(fresh_database, autocommit=True) as conn:
        drift_store.bind(conn, platform.baseline())
        platform.serve(conn, fresh_database, STATIONARY, 1000, 0, seed=1)
    return fresh_database


@pytest.mark.parametrize("step", ["of_relation", "validate"])
def test_what_the_log_says_of_a_lost_server_has_no_traceback(
    served: str,
    step: str,
    postgres_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original = getattr(suite.Measuring, step)
    calls = []

    def after_all_sessions_ended(self: suite.Measuring, *arguments: Any) -> Any:
        calls.append(step)
        if len(calls) == 2:  # Great Expectations has a connection of its own by now
            with psycopg.connect(postgres_server, autocommit=True) as conn:
                cut(conn, served.rpartition("/")[2])
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(suite.Measuring, step, after_all_sessions_ended)
        with pytest.raises(psycopg.Error) as lost:
            drift_check.check(served, WINDOW)
    assert of_a_server(lost.value)
    told = [f"{one.getMessage()} {one.exc_text or one.exc_info or ''}" for one in caplog.records]
    assert [text for text in told if "Traceback" in text or "traceback" in text] == []
    assert drift_check.check(served, WINDOW).verdict == OK
