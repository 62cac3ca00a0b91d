"""Which column of a file holds which of the store's: by `--map`, or by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from extensions.errors import SkewlessError

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
    """The names that a kind of file may map, and those that it must have."""

    required: tuple[str, ...]
    optional: tuple[str, ...]


EVENT_COLUMNS = Columns(
    required=("user_id", "item_id", "watched_at"),
    optional=("event_id", "ingested_at", "duration_min", "duration_s", "duration_ms", "progress"),
)
ITEM_COLUMNS = Columns(required=("item_id", "genre"), optional=("valid_from", "ingested_at"))


def parse_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """``["watched_at=timestamp"]`` as ``{"watched_at": "timestamp"}``.

    Raises:
        SkewlessError: exit code 2, for a pair without ``=`` or a name given twice.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        ours, theirs = ours.strip(), theirs.strip()
        if not (equals and ours and theirs):
            raise SkewlessError(
                f"--map takes OURS=THEIRS, such as watched_at=timestamp, not {pair!r}.",
                exit_code=2,
            )
        if ours in mapping:
            raise SkewlessError(f"--map names {ours} twice: keep one.", exit_code=2)
        mapping[ours] = theirs
    return mapping


def resolve(
    path: Path, present: list[str], mapping: Mapping[str, str], wanted: Columns
) -> dict[str, int]:
    """Each of our columns that the file has, with its place in the file.

    Raises:
        SkewlessError: exit code 2, when a required column is missing, or a mapped one is
            unknown, missing or ambiguous; it lists the columns that there are.
    """
    known = wanted.required + wanted.optional
    if unknown := sorted(set(mapping) - set(known)):
        raise SkewlessError(
            f"--map does not know {', '.join(unknown)}: it takes {', '.join(known)}.", exit_code=2
        )
    there = f"its columns are {', '.join(present)}"
    sources = {name: name for name in known if name in present}
    for published, ours in _PUBLISHED.items():
        if published in present and ours in known:
            sources.setdefault(ours, published)
    if any(name.startswith("duration_") for name in mapping):
        sources = {k: v for k, v in sources.items() if not k.startswith("duration_")}
    sources.update(mapping)

    for ours, theirs in sources.items():
        if theirs not in present:
            raise SkewlessError(
                f"{path} has no column {theirs}, which --map names for {ours}: {there}.",
                exit_code=2,
            )
        if present.count(theirs) > 1:
            raise SkewlessError(
                f"{path} has {present.count(theirs)} columns called {theirs}: rename all but one.",
                exit_code=2,
            )
    if missing := [name for name in wanted.required if name not in sources]:
        raise SkewlessError(
            f"{path} has no column for {', '.join(missing)}: name it with "
            f"--map {missing[0]}=COLUMN; {there}.",
            exit_code=2,
        )
    durations = [name for name in sources if name.startswith("duration_")]
    if len(durations) > 1:
        raise SkewlessError(
            f"{path} has more than one duration ({', '.join(durations)}): name the one to take "
            f"with --map {durations[0]}=COLUMN.",
            exit_code=2,
        )
    return {ours: present.index(theirs) for ours, theirs in sources.items()}
