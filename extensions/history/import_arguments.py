"""What a command line says of an import, read before anything heavy is imported."""

from collections.abc import Iterable
from pathlib import Path

from extensions.database import connect
from extensions.database.connection import table_exists
from extensions.errors import ConfigurationError, InputError

_MEANT = {"--set": "VALUE", "--time-format": "FORMAT"}


def parse_pairs(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """``["watched_at=timestamp"]`` as ``{"watched_at": "timestamp"}``.

    Raises:
        InputError: exit code 2, for a pair without ``=`` or a name given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name, text = name.strip(), text if option == "--set" else text.strip()
        if not (equals and name and (text or option == "--set")):
            raise InputError(
                f"{option} takes COLUMN={_MEANT.get(option, 'EXPRESSION')}, not {pair!r}."
            )
        if name in found:
            raise InputError(f"{option} names {name} twice: keep one.")
        found[name] = text
    return found


def time_formats(texts: Iterable[str]) -> dict[str, str]:
    """Formats by column; ``FORMAT`` without one is for all columns, by ``""``."""
    found = {}
    for text in texts:
        column, equals, form = text.partition("=")
        if equals and column.isidentifier():
            found[column] = form
        else:
            found[""] = text
    return found


def files_of(patterns: Iterable[str | Path]) -> list[Path]:
    """Files by path, or by a pattern such as ``exports/2025-*.csv.gz`` that no file is called.

    Raises:
        InputError: exit code 2, when a file is not there or a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.exists():
            found.append(path)
            continue
        if not any(sign in str(pattern) for sign in "*?["):
            raise InputError(f"There is no file {path}: check the path.")
        base = Path(path.anchor) if path.is_absolute() else Path()
        matches = sorted(base.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
        matches = [each for each in matches if not each.name.endswith(".rejected.csv")]
        if not matches:
            raise InputError(f"There is no file that {pattern} matches: check the pattern.")
        found += matches
    return list(dict.fromkeys(found))


def check_migrated(url: str) -> None:
    """Refuse a database without the engine's tables.

    Raises:
        ConfigurationError: it has none.
        UnavailableError: it does not answer.
    """
    with connect(url, name="skewless import") as conn:
        if not table_exists(conn, "watermarks"):
            raise ConfigurationError(
                "The database has no Skewless tables yet: run `skewless migrate` first."
            )
