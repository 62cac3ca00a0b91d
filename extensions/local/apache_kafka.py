"""Genuine Apache Kafka (KRaft, one JVM), its jars resolved by Maven and kept in the user's cache.

It is the broker that counts for durability, look-ups by time and transactions. It needs
Java 17 or newer, and Maven the first time: :func:`available` says what is missing.
"""

import functools
import os
import re
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from extensions.errors import ConfigurationError
from extensions.local.child_process import hold_folder, run, spawn
from extensions.local.ports import LOOPBACK, free_port
from extensions.local.readiness_probes import kafka_answers
from extensions.local.server_process import Server
from extensions.local.server_process import start as start_server
from extensions.local.user_cache_folder import cache_folder, complete_folder

NAME = "Apache Kafka"

_PARTS = Path(__file__).parent / "kafka"
_OLDEST_JAVA = 17
_READY_WITHIN_SECONDS = 120.0
_DOWNLOAD_SECONDS = 900.0
_JVM = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true")
_SHORT_JVM = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def version() -> str:
    """The version of Apache Kafka that :func:`start` runs."""
    found = re.search(r"<kafka\.version>(.+?)<", (_PARTS / "pom.xml").read_text())
    if found is None:
        raise ValueError("kafka/pom.xml names no kafka.version")
    return found.group(1)


def available() -> str | None:
    """None when Apache Kafka can run here, else the reason why not, in one sentence."""
    java = _java()
    if java is None:
        return f"Apache Kafka needs Java {_OLDEST_JAVA} or newer, and there is no `java` here."
    if (found := _java_version(java)) < _OLDEST_JAVA:
        return f"Apache Kafka needs Java {_OLDEST_JAVA} or newer, and {java} is Java {found}."
    if not _jars().is_dir() and shutil.which("mvn") is None:
        return "Apache Kafka's jars are fetched by Maven, and there is no `mvn` here."
    return None


def start(data_dir: Path, port: int | None = None) -> Server:
    """Start the broker on ``data_dir``, formatted if new; its ``url`` is ``127.0.0.1:<port>``.

    Topics must be created: a client's mere mention of one creates nothing. The first start on
    a machine fetches 45 MB of jars.
    """
    return start_server(lambda chosen: launch(data_dir, chosen), port, NAME)


def launch(data_dir: Path, port: int) -> Server:
    """Format ``data_dir`` if new and spawn the broker without waiting until it answers."""
    if (reason := available()) is not None:
        raise ConfigurationError(f"{reason} Use `--kafka tansu`, or set SKEWLESS_KAFKA_BOOTSTRAP.")
    jars = _fetch()
    controller = free_port(taken=frozenset({port}))
    lock = hold_folder(data_dir, NAME)
    try:
        logs = data_dir.resolve() / "logs"
        if not logs.exists():
            _format(data_dir, jars, port, controller)
        settings = _write_settings(data_dir, logs, port, controller)
        cluster_id = _cluster_id(logs)
        child = spawn(
            [*_command(jars), *_JVM, "kafka.Kafka", settings],
            NAME,
            data_dir / "server.log",
            cwd=data_dir,
            lock=lock,
        )
    finally:
        os.close(lock)
    return Server(
        child=child,
        url=f"{LOOPBACK}:{port}",
        ports=(port, controller),
        probe=lambda: kafka_answers(port, cluster_id),
        ready_within=_READY_WITHIN_SECONDS,
    )


def _format(data_dir: Path, jars: Path, port: int, controller: int) -> None:
    """Make the broker's folder under another name, and give it its own when it is complete."""
    fresh = data_dir.resolve() / "logs.new"
    shutil.rmtree(fresh, ignore_errors=True)
    settings = _write_settings(data_dir, fresh, port, controller)
    # A UUID as Kafka writes them, 22 characters of URL-safe base64; "-" would look like an option.
    cluster_id = "S" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
    tool = [*_command(jars), *_SHORT_JVM, "kafka.tools.StorageTool", "format"]
    tool += ["--cluster-id", cluster_id, "--config", settings]
    run(tool, "Kafka's storage tool", data_dir / "server.log", 120, cwd=data_dir)
    fresh.rename(data_dir / "logs")


def _write_settings(data_dir: Path, logs: Path, port: int, controller: int) -> Path:
    settings = data_dir.resolve() / "server.properties"
    settings.write_text(
        (_PARTS / "server.properties").read_text()
        + f"\nlisteners=BROKER://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}\n"
        + f"advertised.listeners=BROKER://{LOOPBACK}:{port}\n"
        + f"controller.quorum.voters=1@{LOOPBACK}:{controller}\n"
        + f"log.dirs={logs}\n"
    )
    return settings


def _cluster_id(logs: Path) -> str:
    try:
        found = re.search(
            r"^cluster\.id=(\S+)$", (logs / "meta.properties").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    if found is None:
        raise ConfigurationError(
            f"{logs} is not a data folder of Apache Kafka: move it away to start empty."
        )
    return found.group(1)


def _command(jars: Path) -> list[str | Path]:
    settings = _PARTS / "log4j2.properties"
    return [_java() or "java", "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={settings}"]


def _jars() -> Path:
    return cache_folder() / f"kafka-{version()}"


def _fetch() -> Path:
    """The folder with Kafka's jars, complete."""
    return complete_folder(_jars(), _download)


def _download(into: Path) -> Path:
    maven: list[str | Path] = ["mvn", "--quiet", "--batch-mode", "--file", _PARTS / "pom.xml"]
    maven += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    maven.append(f"-DoutputDirectory={into}")
    run(maven, "Maven", into.parent / "maven.log", _DOWNLOAD_SECONDS)
    return into


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return (home and shutil.which("java", path=f"{home}/bin")) or shutil.which("java")


@functools.cache
def _java_version(java: str) -> int:
    try:
        said = subprocess.run(
            [java, "-version"], check=False, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    return int(found.group(1)) if found else 0
