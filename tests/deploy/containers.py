"""A stand-in for a container engine: a role's environment, and programs with a container's rights.

A program runs as process 1 of its own process namespace, as a user without any capability, on a
root file system that is read-only but for an empty /tmp: what `deploy/Dockerfile`, `compose.yaml`
and the chart ask of an engine. Network, users and the base image are this machine's.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPO_ROOT

USER = "10001"
_APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_INSIDE = (
    "mount -o remount,bind,ro / && mount -t tmpfs -o mode=1777 tmpfs /tmp && "
    'cd "$1" && shift && '
    f"exec setpriv --reuid {USER} --regid {USER} --clear-groups --bounding-set=-all "
    '--inh-caps=-all --no-new-privs "$@"'
)


def unavailable() -> str | None:
    """Why programs cannot be run so here; None: they can."""
    done = subprocess.run(
        [*_APART, "sh", "-c", _INSIDE, "sh", "/", "true"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return None if done.returncode == 0 else f"No containers' rights here: {done.stderr.strip()}"


def context(folder: Path) -> Path:
    """The image's build context: what `Dockerfile.dockerignore` lets through."""
    lines = (REPO_ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        source, target = REPO_ROOT / name, folder / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".skewless")
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder


@dataclass(frozen=True)
class Image:
    """What the Dockerfile makes of one lock: an environment and the repository."""

    folder: Path
    repository: Path

    def size(self) -> int:
        """Bytes of the environment's files."""
        return sum(
            path.stat().st_size for path in (self.folder / "env").rglob("*") if path.is_file()
        )

    def has(self, module: str) -> bool:
        """Whether the environment can import a module; it is not imported."""
        look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        done = subprocess.run(
            [self.folder / "env" / "bin" / "python", "-P", "-c", look], check=False
        )
        return done.returncode == 0

    def command(self, *words: str) -> list[str]:
        """A command of the image, with a container's rights."""
        program = str(self.folder / "env" / "bin" / "skewless")
        return [*_APART, "sh", "-c", _INSIDE, "sh", str(self.repository), program, *words]


def build(source: Path, lock: str, folder: Path) -> Image:
    """Take the steps of `deploy/Dockerfile`; uv and Python are this machine's."""
    uv = shutil.which("uv") or str(REPO_ROOT / ".uv" / "bin" / "uv")
    python = str(folder / "env" / "bin" / "python")
    folder.mkdir()
    run(uv, "venv", "--quiet", "--python", _base_python(), str(folder / "env"))
    run(
        uv, "pip", "sync", "--quiet", "--python", python, "--compile-bytecode",
        "--require-hashes", str(source / "locks" / f"{lock}.txt"),
    )  # fmt: skip
    run(
        uv, "pip", "install", "--quiet", "--python", python, "--compile-bytecode", "--no-deps",
        str(source),
    )  # fmt: skip
    repository = folder / "repository"
    repository.mkdir()
    shutil.copy2(source / "feature_store.yaml", repository)
    shutil.copytree(source / "feature_repo", repository / "feature_repo")
    return Image(folder, repository)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def _base_python() -> str:
    """A Python that any user may run: that of a home folder may be hidden from others."""
    for path in (Path(sys._base_executable).resolve(), Path("/usr/bin/python3").resolve()):
        readable = all(folder.stat().st_mode & 0o005 == 0o005 for folder in path.parents)
        if path.is_file() and readable:
            return str(path)
    raise AssertionError("No Python here that another user may run.")


@contextmanager
def running(
    image: Image, words: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator["Running"]:
    """A program of the image until the block ends; then it is killed, if it has not ended."""
    env = {
        "PATH": f"{image.folder / 'env' / 'bin'}:{os.defpath}:/usr/sbin:/sbin", "HOME": "/tmp",
        "SKEWLESS_REPO": str(image.repository), "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1", "FEAST_USAGE": "False", **environment,
    }  # fmt: skip
    with log.open("wb") as said:
        process = subprocess.Popen(image.command(*words), env=env, stdout=said, stderr=said)
    try:
        yield Running(process, log, time.monotonic())
    finally:
        process.kill()  # its child, process 1 inside, goes with it
        process.wait()


@dataclass(frozen=True)
class Running:
    """A program that was started; ``began``: when, by the monotonic clock."""

    process: "subprocess.Popen[bytes]"
    log: Path
    began: float

    def until(self, true: Callable[[], bool], seconds: float = 90) -> float:
        """Seconds from the program's start until ``true`` says so."""
        while not true():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - self.began < seconds, self.log.read_text()
            time.sleep(0.05)
        return time.monotonic() - self.began

    def end(self, seconds: float = 120) -> int:
        """Its exit code, when it ends by itself."""
        return self.process.wait(seconds)

    def terminate(self, seconds: float = 15) -> int:
        """Send SIGTERM to process 1 inside, as an engine does; its exit code."""
        inner = self._inner()
        assert inner is not None
        os.kill(inner, signal.SIGTERM)
        return self.process.wait(seconds)

    def memory(self) -> int:
        """Resident bytes of process 1 inside; 0 before there is one."""
        if (inner := self._inner()) is None:
            return 0
        status = Path(f"/proc/{inner}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return 0 if found is None else int(found[1]) * 1024

    def _inner(self) -> int | None:
        """The id, outside, of process 1 inside."""
        process = self.process.pid
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return int(children[0]) if children else None
