"""Each role from its own lock in an empty environment: it starts, works, and ends when told to.

`make test-deploy`: minutes, for it installs every role's packages. The figures go into
`benchmarks/results/roles.json`, and from there into docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.report import Row, publish
from extensions.local.ports import free_port
from tests.conftest import REPO_ROOT
from tests.databases import create
from tests.deploy.containers import Image, Running, build, context, running, unavailable

ROLES = ("production", "serving", "streaming", "monitoring", "lake")
SERVICES = yaml.safe_load((REPO_ROOT / "deploy" / "compose.yaml").read_text())["services"]
ROWS: list[Row] = []


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    if why := unavailable():
        pytest.skip(why)
    # Not below /tmp, which is empty inside, nor below a folder that others may not enter.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="skewless-images-") as folder:
        top = Path(folder)
        top.chmod(0o755)
        source = context(top / "context")
        yield {role: build(source, role, top / role) for role in ROLES}
    command = argparse.Namespace(quick=False, json=REPO_ROOT / "benchmarks/results/roles.json")
    publish("roles", ROWS, command)
    result = json.loads(command.json.read_text())
    result |= {"title": "Roles, each from its own lock", "command": "make test-deploy"}
    command.json.write_text(json.dumps(result, indent=1) + "\n")


@pytest.fixture(scope="module")
def environment(postgres_server: str, redis_server: str, kafka_server: str) -> dict[str, str]:
    return {
        "SKEWLESS_POSTGRES_URL": create(postgres_server, "roles"),
        "SKEWLESS_REDIS_URL": redis_server,
        "SKEWLESS_KAFKA_BOOTSTRAP": kafka_server,
    }


def answer(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())
    except (OSError, urllib.error.URLError):
        return None


def words(service: str, *, instead: dict[str, str]) -> list[str]:
    """The command of compose.yaml, on a port and address of this machine."""
    return [instead.get(word, word) for word in SERVICES[service]["command"]]


def started(role: str, program: Running, seconds: float, image: Image) -> None:
    note = "its own lock, bytecode included"
    ROWS.append(Row(role, "installed", "MB", "lower", round(image.size() / 1e6), why=note))
    ROWS.append(Row(role, "until it answers", "s", "lower", round(seconds, 2)))
    ROWS.append(
        Row(role, "resident memory then", "MB", "lower", round(program.memory() / 1e6)),
    )


@pytest.mark.timeout(3000)
def test_the_product_in_compose_order(
    images: dict[str, Image], environment: dict[str, str], tmp_path: Path
) -> None:
    for command in ("migrate", "apply"):
        log = tmp_path / f"{command}.log"
        with running(images["production"], [command], environment, log) as program:
            assert program.end(300) == 0, log.read_text()
    port = free_port()
    instead = {"8566": str(port), "0.0.0.0": "127.0.0.1", "2": "1"}
    with running(
        images["serving"], words("serve", instead=instead), environment, tmp_path / "serve.log"
    ) as program:
        seconds = program.until(lambda: answer(f"http://127.0.0.1:{port}/ready") is not None)
        started("serving", program, seconds, images["serving"])
        body = answer(f"http://127.0.0.1:{port}/v1/features/user/1")
        assert body is not None
        assert '"userId":1' in body
        assert program.terminate() == 0
    port = free_port()
    instead = {"9101": str(port), "0.0.0.0": "127.0.0.1"}
    with running(
        images["streaming"], words("ingest", instead=instead), environment, tmp_path / "ingest.log"
    ) as program:
        seconds = program.until(lambda: "skewless_stream_last_seconds{" in (
            answer(f"http://127.0.0.1:{port}/metrics") or ""))  # fmt: skip
        started("streaming", program, seconds, images["streaming"])
        assert program.terminate() == 0
    log = tmp_path / "refresh.log"
    with running(images["streaming"], ["refresh"], environment, log) as program:
        assert program.end() == 0, log.read_text()
    with running(images["streaming"], SERVICES["refresh"]["command"], environment, log) as program:
        # Its first round is over when Feast is imported and PostgreSQL knows it.
        program.until(lambda: program.memory() > 100e6)
        assert program.terminate() == 143
    port = free_port()
    instead = {"9109": str(port), "0.0.0.0": "127.0.0.1"}
    with running(
        images["monitoring"], words("drift", instead=instead), environment, tmp_path / "drift.log"
    ) as program:
        seconds = program.until(lambda: "skewless_monitoring_up 1.0" in (
            answer(f"http://127.0.0.1:{port}/metrics") or ""))  # fmt: skip
        started("monitoring", program, seconds, images["monitoring"])
        assert program.terminate() == 143
    log = tmp_path / "audit.log"
    with running(images["monitoring"], ["audit"], environment, log) as program:
        assert program.end(300) in (0, 5), log.read_text()  # nobody has asked for much yet
    log = tmp_path / "lake.log"
    lake = environment | {"SKEWLESS_HOME": "/tmp/lake"}
    with running(images["lake"], ["lake", "export"], lake, log) as program:
        assert program.end(300) == 0, log.read_text()


def test_an_image_has_its_role_and_no_other(images: dict[str, Image]) -> None:
    serving, streaming = images["serving"], images["streaming"]
    for absent in ("great_expectations", "pyspark", "scipy", "kafka", "pyiceberg"):
        assert not serving.has(absent), absent
    assert not streaming.has("great_expectations")
    assert not any(images[role].has("pyiceberg") for role in ROLES if role != "lake")
    # The look can find something.
    assert serving.has("extensions.serving")
    assert images["monitoring"].has("great_expectations")
    assert images["lake"].has("pyiceberg")


def test_the_root_is_read_only_and_the_user_is_nobody(images: dict[str, Image]) -> None:
    image = images["serving"]
    python = str(image.folder / "env" / "bin" / "python")
    code = (
        "import os\n"
        "assert os.getuid() == 10001 and os.getpid() == 1\n"
        "open('/tmp/ours', 'w').close()\n"
        "for path in ('/etc/ours', '/var/tmp/ours', os.environ['SKEWLESS_REPO'] + '/ours'):\n"
        "    try:\n"
        "        open(path, 'w')\n"
        "    except OSError as error:\n"
        "        assert error.errno == 30, error\n"
        "    else:\n"
        "        raise AssertionError(path)\n"
    )
    command = [python if word.endswith("/skewless") else word for word in image.command("-c", code)]
    env = {**os.environ, "SKEWLESS_REPO": str(image.repository)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
