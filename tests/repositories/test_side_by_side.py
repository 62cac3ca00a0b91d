"""Two repositories on one machine: each has its own stack, and neither sees the other's."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from extensions.exit_codes import FAILED
from extensions.local.ports import LOOPBACK, is_free
from extensions.serving.settings import DEFAULT_PORT
from tests.repositories.places import ODD, done, new_repository, run, up, visit


@pytest.fixture
def default_port_taken() -> Iterator[None]:
    """Nobody else gets it: this process listens there, at once or when another program leaves."""
    done = threading.Event()
    with socket.socket() as listening:
        # As `is_free`: connections of before that are being forgotten hold nobody up.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def take() -> None:
            while not done.is_set():
                try:
                    listening.bind((LOOPBACK, DEFAULT_PORT))
                    listening.listen()
                except OSError:
                    time.sleep(0.01)
                else:
                    return

        taking = threading.Thread(target=take)
        taking.start()
        while is_free(DEFAULT_PORT):
            time.sleep(0.01)
        yield
        done.set()
        taking.join()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("default_port_taken")
def test_two_repositories_run_at_once_and_do_not_see_each_other(tmp_path: Path) -> None:
    first = new_repository(tmp_path / ODD / "first", project="first")
    second = new_repository(tmp_path / "second", project="second")
    with up(first) as one, up(second) as two:
        told = [one.addresses, two.addresses]
        for server in ("postgres", "redis", "kafka", "http"):
            assert told[0][server] != told[1][server]
        for running in (one, two):
            assert (
                f"The HTTP server listens on port {running.addresses['http'].rpartition(':')[2]}: "
                f"{DEFAULT_PORT} is in use by"
            ) in running.said()
        one.send("visits", visit(1, "ada", "/one"), visit(2, "ada", "/two"))
        two.send("visits", visit(1, "ada", "/other"))
        one.becomes({"visits_7d": 2, "last_page_7d": "/two"}, "visitor", visitor_id="ada")
        two.becomes({"visits_7d": 1, "last_page_7d": "/other"}, "visitor", visitor_id="ada")
        for folder, running, rows in ((first, one, 2), (second, two, 1)):
            with psycopg.connect(running.addresses["postgres"]) as conn:
                assert conn.execute("SELECT count(*) FROM visits").fetchone() == (rows,)
                assert conn.execute("SELECT project FROM project_claim").fetchall() == [
                    (folder.name,)
                ]
            # From elsewhere by name, from below by place, and by Feast's own command.
            status = done(run("skewless", "--repo", folder, "doctor", "--json", cwd=tmp_path))
            assert all(finding["ok"] for finding in json.loads(status)), status
            listed = done(run("feast", "feature-views", "list", cwd=folder))
            assert "visitor_activity" in listed
            # A second stack of the same repository is refused.
            again = run("skewless", "up", cwd=folder / "feature_repo")
            assert again.returncode == FAILED
            assert "is running in" in again.stderr
        # One's programs refuse the other's database.
        crossed = run("skewless", "refresh", cwd=first, SKEWLESS_POSTGRES_URL=told[1]["postgres"])
        assert crossed.returncode == FAILED
        assert "belongs to the project second, not to first" in crossed.stderr
        port = told[0]["http"]
        done(run("skewless", "--repo", first, "down", cwd=tmp_path))
        assert one.process.wait(60) is not None
        assert two.features("visitor", visitor_id="ada")["visits_7d"] == 1
    # It comes back where it was, as long as the default is taken.
    with up(first) as one:
        assert one.addresses["http"] == port
        assert one.features("visitor", visitor_id="ada")["visits_7d"] == 2
