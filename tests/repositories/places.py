"""Repositories in folders of their own, and commands run from anywhere."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kafka import KafkaProducer

from extensions import addresses

PROGRAMS = Path(sys.executable).parent
# A space, letters of two scripts, and what a shell would read.
ODD = "Läden & 店's repository"


def plain_environment(**more: str) -> dict[str, str]:
    """Ours without addresses, a repository or PYTHONPATH."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SKEWLESS_", "PYTHONPATH"))}
    return kept | more


def run(
    program: str | Path, *arguments: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A program of this environment (or of a path), run in ``cwd``."""
    return subprocess.run(
        [PROGRAMS / program, *arguments], cwd=cwd, env=plain_environment(**environment),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def done(result: subprocess.CompletedProcess[str]) -> str:
    """What the program printed; it must have succeeded."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def new_repository(
    folder: Path,
    template: str = "minimal",
    project: str = "shop",
    program: str | Path = "skewless",
    **environment: str,
) -> Path:
    """`skewless init` from the folder above."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    done(
        run(program, "init", folder.name, "--template", template, "--project", project,
            cwd=folder.parent, **environment)
    )  # fmt: skip
    return folder


def servers(postgres: str, redis: str) -> dict[str, str]:
    """The environment that names these servers."""
    return {addresses.POSTGRES_VARIABLE: postgres, addresses.REDIS_VARIABLE: redis}


@contextmanager
def up(
    repository: Path, *options: str, program: str | Path = "skewless", **environment: str
) -> Iterator["Running"]:
    """`skewless up` from a folder below the repository; stopped as Ctrl-C does."""
    log = repository.parent / f"{repository.name}.up.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [PROGRAMS / program, "up", *options], cwd=repository / "feature_repo",
            env=plain_environment(**environment), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        running = Running(repository, process, log)
        running.wait()
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


class Running:
    """A repository's stack from outside."""

    def __init__(self, repository: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.repository, self.process, self.log = repository, process, log

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while "Feast's commands work" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def said(self) -> str:
        return self.log.read_text()

    @property
    def addresses(self) -> dict[str, str]:
        """What stack.json says: postgres, redis, kafka, http."""
        state: dict[str, str] = json.loads(
            (self.repository / ".skewless" / "stack.json").read_text()
        )
        return state

    def send(self, topic: str, *messages: dict[str, object]) -> None:
        """Messages to the stack's broker, from here."""
        producer = KafkaProducer(bootstrap_servers=self.addresses["kafka"])
        for message in messages:
            producer.send(topic, json.dumps(message).encode())
        producer.flush()
        producer.close()

    def features(self, service: str, **entity: object) -> dict[str, object]:
        """One entity's features over HTTP."""
        request = urllib.request.Request(
            f"{self.addresses['http']}/v1/features",
            json.dumps({"service": service, "entities": [entity]}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            [result] = json.load(reply)["results"]
        features: dict[str, object] = result["features"]
        return features

    def becomes(self, wanted: dict[str, object], service: str, **entity: object) -> None:
        """Wait until the entity's features are these."""
        deadline = time.monotonic() + 60
        while (found := self.features(service, **entity)) != wanted:
            assert time.monotonic() < deadline, (found, wanted, self.worker_log())
            time.sleep(0.2)

    def worker_log(self) -> str:
        path = self.repository / ".skewless" / "ingest.log"
        return path.read_text()[-2000:] if path.exists() else ""


def visit(number: int, visitor: str, page: str) -> dict[str, object]:
    """A visit of now, as the template `minimal` reads it."""
    return {
        "visit_id": f"visit-{number}", "visitor_id": visitor, "page": page,
        "visited_at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
