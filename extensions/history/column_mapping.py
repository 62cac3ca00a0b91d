"""Which column of a file holds which of the store's: by `--map`, or by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extensions.errors import InputError
from extensions.history.csv_records import IsRow
from extensions.history.value_conversion import is_integer, is_time

# What the published stream calls them, for files that were written from it.
_PUBLISHED = {
    "eventId": "event_id",
    "userId": "user_id",
    "itemId": "item_id",
    "watchedAt": "watched_at",
    "watchDurationMin": "duration_min",
    "ingestedAt": "ingested_at",
    "validFrom": "valid_from",
}


@dataclass(frozen=True)
class Columns:
    """The names that a kind of file may map, and those that it must have.

    ``typed``: of the required ones that are no text, what tells a value of theirs.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    typed: Mapping[str, Callable[[str], bool]]

    def is_row(self, places: Mapping[str, int]) -> IsRow:
        """Tells a line that is a row of a file whose columns have these ``places``.

        Text may happen to have as many delimiters, and a number between two of them; that most
        of the places have what they should is no accident. A row with a fault is one all the same.
        """
        tests = [(places[name], test) for name, test in self.typed.items()]

        def is_row(fields: Sequence[str], among: range) -> bool:
            fits = [test(fields[at]) for at, test in tests if at in among]
            return 2 * sum(fits) > len(fits)

        return is_row


EVENT_COLUMNS = Columns(
    required=("user_id", "item_id", "watched_at"),
    optional=("event_id", "ingested_at", "duration_min", "duration_s", "duration_ms", "progress"),
    typed={"user_id": is_integer, "item_id": is_integer, "watched_at": is_time},
)
ITEM_COLUMNS = Columns(
    required=("item_id", "genre"),
    optional=("valid_from", "ingested_at"),
    typed={"item_id": is_integer},
)


def parse_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """``["watched_at=timestamp"]`` as ``{"watched_at": "timestamp"}``.

    Raises:
        InputError: exit code 2, for a pair without ``=`` or a name given twice.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        ours, theirs = ours.strip(), theirs.strip()
        if not (equals and ours and theirs):
            raise InputError(
                f"--map takes OURS=THEIRS, such as watched_at=timestamp, not {pair!r}.",
            )
        if ours in mapping:
            raise InputError(f"--map names {ours} twice: keep one.")
        mapping[ours] = theirs
    return mapping


def resolve(
    path: Path,
    present: list[str],
    mapping: Mapping[str, str],
    wanted: Columns,
    *,
    first_row: Sequence[str] | None = None,
) -> dict[str, int]:
    """Each of our columns that the file has, with its place in the file.

    ``first_row``: of a file without a header, whose ``present`` columns are numbers.

    Raises:
        InputError: exit code 2, when a required column is missing, or a mapped one is
            unknown, missing or ambiguous, or the names are values, so that the header is
            missing; it lists the columns that there are.
    """
    known = wanted.required + wanted.optional
    if unknown := sorted(set(mapping) - set(known)):
        raise InputError(f"--map does not know {', '.join(unknown)}: it takes {', '.join(known)}.")
    there = _there(present, first_row)
    sources = {name: name for name in known if name in present}
    for published, ours in _PUBLISHED.items():
        if published in present and ours in known:
            sources.setdefault(ours, published)
    if any(name.startswith("duration_") for name in mapping):
        sources = {k: v for k, v in sources.items() if not k.startswith("duration_")}
    sources.update(mapping)

    for ours, theirs in sources.items():
        if theirs not in present:
            raise InputError(
                f"{path} has no column {theirs}, which --map names for {ours}: {there}.",
            )
        if present.count(theirs) > 1:
            raise InputError(
                f"{path} has {present.count(theirs)} columns called {theirs}: rename all but one.",
            )
    _check_required(path, present, sources, wanted, first_row)
    durations = [name for name in sources if name.startswith("duration_")]
    if len(durations) > 1:
        raise InputError(
            f"{path} has more than one duration ({', '.join(durations)}): name the one to take "
            f"with --map {durations[0]}=COLUMN.",
        )
    return {ours: present.index(theirs) for ours, theirs in sources.items()}


def _check_required(
    path: Path,
    present: list[str],
    sources: Mapping[str, str],
    wanted: Columns,
    first_row: Sequence[str] | None,
) -> None:
    """Is each required column there, by a name that is no value?"""
    if missing := [name for name in wanted.required if name not in sources]:
        raise InputError(
            f"{path} has no column for {', '.join(missing)}: name it with "
            f"--map {missing[0]}={'COLUMN' if first_row is None else 'NUMBER'}; "
            f"{_there(present, first_row)}.",
        )
    if first_row is None and _are_values(sources, wanted):
        raise InputError(
            f"The first row of {path} is no header but a row ({', '.join(present[:6])}): import "
            f"it with --no-header and name columns by their numbers, such as "
            f"--map {wanted.required[0]}={present.index(sources[wanted.required[0]]) + 1}.",
        )


def _there(present: Sequence[str], first_row: Sequence[str] | None) -> str:
    """What the file has, with a word on a header that is missing."""
    if first_row is not None:
        values = (f"{name} ({value})" for name, value in zip(present, first_row, strict=True))
        return f"its columns, and their first values, are {', '.join(values)}"
    said = f"its columns are {', '.join(present)}"
    if any(is_integer(name) or is_time(name) for name in present):
        said += " (if that is a row and no header, give --no-header as well)"
    return said


def _are_values(sources: Mapping[str, str], wanted: Columns) -> bool:
    """Are the names of the required columns values of theirs? A number alone is no text."""
    return all(
        wanted.typed[ours](sources[ours]) if ours in wanted.typed else not is_integer(sources[ours])
        for ours in wanted.required
    )
