"""A real Prometheus, from the machine's PATH or from Debian's package, kept in the user's cache."""

import functools
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from extensions.local.ports import LOOPBACK, free_port
from tests.debian_packages import unpacked


@functools.cache
def programs() -> tuple[Path, Path] | str:
    """Paths of ``prometheus`` and ``promtool``, or in one sentence why there are none."""
    found = [shutil.which(name) for name in ("prometheus", "promtool")]
    if all(found):
        return Path(str(found[0])), Path(str(found[1]))
    folder = unpacked("prometheus")
    if isinstance(folder, str):
        return folder
    return folder / "usr/bin/prometheus", folder / "usr/bin/promtool"


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The answer to a query as of now, by series."""
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(self.url + path, timeout=20) as reply:
            body = json.load(reply)
        assert body["status"] == "success"
        assert body["data"]["resultType"] in ("vector", "scalar")
        found: list[dict[str, Any]] = body["data"]["result"]
        return found


@contextmanager
def scraping(folder: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Prometheus, scraping these jobs' ports each second, until the block ends."""
    found = programs()
    assert not isinstance(found, str), found
    config = folder / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "scrape_configs": [
                    {"job_name": job, "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}]}
                    for job, port in targets.items()
                ],
            }
        )
    )
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [found[0], f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={LOOPBACK}:{port}"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        url = f"http://{LOOPBACK}:{port}"
        _wait_ready(url, process, folder / "prometheus.log")
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(30)


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())
