"""docs/features.md, run as it is written on real servers; then an event, and the next version."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from extensions.local.ports import free_port
from extensions.serving.settings import DEFAULT_PORT
from tests.test_quick_start import REPO, Step, Terminal, clone, missing, steps, wait_for

FILE = "feature_repo/user_minutes.py"


def walked_through() -> list[Step]:
    """The quick start until there are data and values, then the page's own blocks."""
    readme = (REPO / "README.md").read_text().split("\n## Quick start\n")[1]
    start = list(steps(readme.split("\n## ", maxsplit=1)[0]))
    last = next(i for i, step in enumerate(start) if step.command.startswith("skewless backfill"))
    page = (REPO / "docs" / "features.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)
    own = [
        step
        for section in sections
        if section.startswith("A feature in five lines")
        for step in steps(section)
    ]
    return [*start[: last + 1], *own]


@pytest.mark.timeout(1_800)
def test_a_feature_in_five_lines_lives_on_real_servers(tmp_path: Path) -> None:
    folder = tmp_path / "skewless"
    clone(folder)
    port = free_port()
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("SKEWLESS_", "PYTEST_"))}
    environment = outside | {"PYTHONPATH": str(folder), "SKEWLESS_PORT": str(port)}
    second = Terminal(folder, environment)
    log = (tmp_path / "up.log").open("w+")
    up: subprocess.Popen[str] | None = None
    try:
        for step in walked_through():
            printed = tuple(line.replace(str(DEFAULT_PORT), str(port)) for line in step.printed)
            if step.path:
                (folder / step.path).write_text(step.text)
            elif step.command == "make up":
                up = subprocess.Popen(
                    ["make", "up"], cwd=folder, env=environment, stdout=log,
                    stderr=subprocess.STDOUT, text=True, start_new_session=True,
                )  # fmt: skip
                wait_for(up, tmp_path / "up.log", printed)
            else:
                output = second.run(step.command.replace(str(DEFAULT_PORT), str(port)))
                line = missing(printed, output)
                assert line is None, f"$ {step.command}\nprints no {line!r}, but\n{output}"
        _follows_the_stream(port, (tmp_path / "up.log").read_text())
        _goes_on_as_a_second_version(folder, second, port)
        assert "0 differences" in second.run("skewless audit")
        printed_sql = second.run("skewless sql user_minutes@v1")
        assert "v1.sql is written" in second.run("skewless sql user_minutes@v1 --eject").replace(
            "\n", " "
        )
        written = (folder / "feature_repo/computations/user_minutes.v1.sql").read_text()
        assert written == printed_sql
        assert "No changes" in second.run("skewless plan")
    finally:
        if up is not None:
            os.killpg(up.pid, signal.SIGINT)
            up.wait(60)
        log.close()


def _follows_the_stream(port: int, told: str) -> None:
    """An event of ten hours changes what is served, by ten hours, soon after it was sent."""
    kafka = re.search(r"^Kafka\s+(\S+)", told, re.MULTILINE)
    assert kafka is not None
    before = _minutes(port)
    producer = KafkaProducer(bootstrap_servers=kafka[1])
    event = {
        "eventId": uuid.uuid4().hex, "userId": 1, "itemId": 1, "watchDurationMin": 600,
        "watchedAt": datetime.now(UTC).isoformat(), "progress": 0.5,
    }  # fmt: skip
    producer.send("watch-events", json.dumps(event).encode())
    producer.flush()
    producer.close()
    deadline = time.monotonic() + 30
    while (after := _minutes(port)) == before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert after == pytest.approx(before + 600, abs=1)


def _goes_on_as_a_second_version(folder: Path, terminal: Terminal, port: int) -> None:
    path = folder / FILE
    text = path.read_text()
    path.write_text(text.replace("timedelta(days=7)", "timedelta(hours=1)"))
    refused = subprocess.run(
        ["skewless", "plan"], cwd=folder, env=terminal.environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "must not change" in " ".join((refused.stdout + refused.stderr).split())
    path.write_text(text.replace("timedelta(days=7)", "timedelta(hours=1)").replace('"v1"', '"v2"'))
    terminal.run("skewless apply")
    whole = _minutes(port)
    terminal.run("skewless promote user_minutes v2")
    deadline = time.monotonic() + 20
    while (hour := _minutes(port)) == whole and time.monotonic() < deadline:
        time.sleep(0.1)
    assert 600 <= hour < whole
    terminal.run("skewless rollback user_minutes")
    path.write_text(text)


def _minutes(port: int) -> float:
    asked = {"service": "minutes", "entities": [{"user_id": 1}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/features", json.dumps(asked).encode()
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        answer: Any = json.load(reply)
    return float(answer["results"][0]["features"]["minutes_7d"])
