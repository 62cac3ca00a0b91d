"""Apicurio Registry, a real schema registry that speaks Confluent's API; fetched by Maven.

Its distribution (142 MB) is kept in the user's cache, as Apache Kafka's jars are.
"""

import http.client
import json
import shutil
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from extensions.local import apache_kafka
from extensions.local.child_process import hold_folder, run, spawn
from extensions.local.ports import LOOPBACK
from extensions.local.server_process import Server
from extensions.local.server_process import start as start_server
from extensions.local.user_cache_folder import cache_folder, complete_folder

VERSION = "2.6.13.Final"
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_API = "/apis/ccompat/v7"


def available() -> str | None:
    """None when it can run here, else the reason why not, in one sentence."""
    if not _folder().is_dir() and shutil.which("mvn") is None:
        return "Apicurio Registry is fetched by Maven, and there is no `mvn` here."
    reason = apache_kafka.available()  # it needs the same Java
    return reason and reason.replace("Apache Kafka", "Apicurio Registry")


def start(folder: Path) -> Server:
    """A registry in memory; its ``url`` is what the tag ``schema_registry`` has."""
    return start_server(lambda port: _launch(folder, port), None, "Apicurio Registry")


def register(url: str, subject: str, schema: object, **more: Any) -> int:
    """The number of a schema under a subject; text is as it is, all else JSON."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    request = urllib.request.Request(
        f"{url}/subjects/{subject}/versions",
        json.dumps({"schema": text, **more}).encode(),
        {"content-type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return int(json.load(answer)["id"])


def _launch(folder: Path, port: int) -> Server:
    home = fetch()
    lock = hold_folder(folder, "Apicurio Registry")
    child = spawn(
        [
            apache_kafka._java() or "java", "-Xmx384m", "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1", f"-Dquarkus.http.host={LOOPBACK}",
            f"-Dquarkus.http.port={port}", "-jar",
            home / f"apicurio-registry-app-{VERSION}-runner.jar",
        ],
        "Apicurio Registry", folder / "server.log", cwd=folder, lock=lock,
    )  # fmt: skip
    return Server(child, f"http://{LOOPBACK}:{port}{_API}", (port,), lambda: _answers(port), 120.0)


def _answers(port: int) -> bool:
    conn = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        conn.request("GET", f"{_API}/subjects")
        return conn.getresponse().status == 200
    finally:
        conn.close()


def _folder() -> Path:
    return cache_folder() / f"apicurio-{VERSION}"


def fetch() -> Path:
    """The unpacked distribution, complete.

    Raises:
        SkewlessError: Maven cannot fetch it.
    """
    return complete_folder(_folder(), _download)


def _download(into: Path) -> Path:
    maven = ["mvn", "--quiet", "--batch-mode", _PLUGIN, f"-Dartifact={_ARTIFACT}"]
    maven += [f"-DoutputDirectory={into / 'download'}"]
    run(maven, "Maven", into.parent / "maven.log", 900)
    [archive] = (into / "download").iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(into / "home", filter="data")
    return into / "home"
