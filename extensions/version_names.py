"""Every name that follows from a view's name and version: its own, its log, its SQL file.

The one place where they are made; `extensions.asof.computation` refuses a view whose source has
another name than `log_table`.
"""

from pathlib import Path

# Relative to the repository's root.
DEFINITIONS = Path("feature_repo")
COMPUTATIONS = DEFINITIONS / "computations"


def version_name(view: str, version: int) -> str:
    """``view.vN``, as commands and messages say it."""
    return f"{view}.v{version}"


def log_table(view: str, version: int) -> str:
    """``view_vN``: the table of the version's values, and the name of its Feast source."""
    return f"{view}_v{version}"


def log_table_sql(alias: str) -> str:
    """`log_table` of a row with ``view_name`` and ``version``, as an SQL expression."""
    return f"{alias}.view_name || '_v' || {alias}.version"


def sql_file(view: str, version: int) -> Path:
    """The file of the version's SQL, relative to the repository's root."""
    return COMPUTATIONS / f"{version_name(view, version)}.sql"
