"""Debian's packages for tests: unpacked into the user's cache and not installed; no root."""

import shutil
import subprocess
from functools import cache, partial
from pathlib import Path

from extensions.local.user_cache_folder import cache_folder, complete_folder

_DOWNLOAD_SECONDS = 300


class _CannotFetchError(Exception):
    pass


@cache
def unpacked(package: str) -> Path | str:
    """The folder in which ``package``'s files are, or in one sentence why there is none."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return f"There is no `{package}` here, and no Debian to fetch it from."
    try:
        return complete_folder(cache_folder() / package, partial(_fetch, package))
    except _CannotFetchError as error:
        return f"There is no `{package}` here, and Debian's package cannot be fetched: {error}"


def _fetch(package: str, folder: Path) -> Path:
    """The package; with lists of its own where there are none."""
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
    if _run(["apt-get", "download", package], folder):
        for command in (["update"], ["download", package]):
            if why := _run(["apt-get", *own, "-o", "APT::Sandbox::User=root", *command], folder):
                raise _CannotFetchError(why)
    [found] = folder.glob(f"{package}_*.deb")
    if why := _run(["dpkg", "-x", str(found), "unpacked"], folder):
        raise _CannotFetchError(why)
    return folder / "unpacked"


def _run(command: list[str], folder: Path) -> str | None:
    """None when the command succeeds, else the last line of what it said."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {_DOWNLOAD_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    return lines[-1] if lines else f"exit code {done.returncode}"
