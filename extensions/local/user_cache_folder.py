"""Where what can be fetched or copied again is kept for this user."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/skewless``, or ``~/.cache/skewless``; it need not exist yet."""
    configured = os.environ.get("XDG_CACHE_HOME")
    base = Path(configured) if configured else Path.home() / ".cache"
    return base / "skewless"


def complete_folder(folder: Path, fill: Callable[[Path], Path]) -> Path:
    """``folder``, filled where it is missing: it gets its name when all of it is there.

    Args:
        folder: In the cache.
        fill: Puts the content into an empty folder beside it; returns that folder, or the one
            below it that is to have the name.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        filled = fill(fresh)
        try:
            filled.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder
