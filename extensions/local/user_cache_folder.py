"""Where what can be fetched or copied again is kept for this user."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/skewless``, or ``~/.cache/skewless``; it need not exist yet."""
    configured = os.environ.get("XDG_CACHE_HOME")
    base = Path(configured) if configured else Path.home() / ".cache"
    return base / "skewless"
