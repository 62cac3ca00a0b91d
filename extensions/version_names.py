"""Every name that follows from a view's name and version: its own, its log, its SQL file.

The one place where they are made; `extensions.asof.computation` refuses a view whose source has
another name than `log_table`.
"""

import re
from pathlib import Path
from typing import Any

# Relative to the repository's root.
DEFINITIONS = Path("feature_repo")
COMPUTATIONS = DEFINITIONS / "computations"
HISTORY = DEFINITIONS / "history"
SEEDS = DEFINITIONS / "seeds"


def version_name(view: str, version: int) -> str:
    """``view.vN``, as commands and messages say it."""
    return f"{view}.v{version}"


def view_version(view: Any) -> int:
    """The version number that a Feast view declares; ``latest`` and none count as 1."""
    match = re.fullmatch(r"v?(\d+)", str(view.version or ""))
    return int(match.group(1)) if match else 1


def log_table(view: str, version: int) -> str:
    """``view_vN``: the table of the version's values, and the name of its Feast source."""
    return f"{view}_v{version}"


def log_table_sql(alias: str) -> str:
    """`log_table` of a row with ``view_name`` and ``version``, as an SQL expression."""
    return f"{alias}.view_name || '_v' || {alias}.version"


def sql_file(view: str, version: int) -> Path:
    """The file of the version's SQL, relative to the repository's root."""
    return COMPUTATIONS / f"{version_name(view, version)}.sql"
