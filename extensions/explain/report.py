"""The explanation of one entity's values: served, logged, recomputed, and from which events."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any

from extensions.consistency.consistency_report import LAG, OVERDUE
from extensions.exit_codes import ATTENTION, NOT_CHECKED, OK, WRONG

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """What the online store answers now.

    Attributes:
        status: ``PRESENT``; ``NOT_FOUND``: no row, defaults are served; ``NOT_COUNTED``: there is
            a row of another layout or beyond its ttl, and defaults are served.
        as_of: The event time of the row.
        values: By feature.
    """

    status: str
    as_of: datetime | None
    values: Values


@dataclass(frozen=True)
class LoggedRow:
    """A row of the log. ``created``: when it was logged for publication."""

    as_of: datetime
    created: datetime | None
    values: Values


@dataclass(frozen=True)
class Comparison:
    """Whether two sides hold the same bits.

    Attributes:
        what: The two sides: one of `OWN`, `NOW`, `ONLINE`.
        differing: The features that differ.
        cause: Why, in the words of the audit (`consistency_report.CAUSES`, or ``lag``); None
            where nothing differs.
        why: A sentence on the cause.
    """

    what: str
    differing: tuple[str, ...] = ()
    cause: str | None = None
    why: str | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differing and self.cause is None


OWN = "the log and its row recomputed as of the row's own time"
NOW = "the log and history recomputed"
ONLINE = "what is served now and the log now"


@dataclass(frozen=True)
class Effect:
    """What leaving one event out does to one feature.

    ``without``: the value without it. ``difference``: the value less that; None of what is no
    finite number.
    """

    changed: bool
    without: Any
    difference: int | float | None


@dataclass(frozen=True)
class Event:
    """A row of a source.

    Attributes:
        keys: The source's key columns.
        time: When it happened.
        arrival: When the store could know it.
        entered: From when on it counts: the later of the two.
        leaves: When it leaves the horizon; None: never.
        new: Whether it entered since the log's row before; None where there is none.
        columns: All columns, as PostgreSQL writes them in JSON.
        effects: By feature, where it was left out once.
    """

    keys: Values
    time: datetime
    arrival: datetime
    entered: datetime
    leaves: datetime | None
    new: bool | None
    columns: Values
    effects: Mapping[str, Effect] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceEvents:
    """The rows of one source that the computation may read for the entity.

    Attributes:
        source: The history table.
        how: How its rows belong to the entity: ``own`` (they name all of its join keys),
            ``shared`` (some of them), ``through`` (keys of the entity's own rows), ``whole``
            (none: every row of the source may count, and only those that are new are listed).
        known: How many there are as of the time asked about; None: more than are counted.
        events: The newest of them, the newest first.
        entered: How many of these entered since the log's row before; None where there is none, or
            more than are counted.
        left: How many left the horizon since then.
        departed: The newest of those.
    """

    source: str
    how: str
    known: int | None
    events: tuple[Event, ...]
    entered: int | None
    left: int | None
    departed: tuple[Event, ...]


@dataclass(frozen=True)
class Explanation:
    """One entity of one view version, as of a time.

    Attributes:
        view: The view.
        version: Its version; None of a view without a computation.
        state: The version's state.
        entity: The join keys.
        as_of: The time that log and history are asked about.
        served: What is served now; None where it cannot be seen.
        logged: The row of the log that a label of that time gets; None: no row.
        before: The rows before it, the newest first.
        recomputed: By feature; None of a view without a computation.
        comparisons: What was compared, and the cause of what differs.
        sources: The events that the computation may read.
        additive: By feature, whether what the entity's own events add up to is the value exactly;
            None where not each of them was left out once.
        notes: Sentences on what could not be seen.
        blind: Whether a side could not be seen at all.
    """

    view: str
    version: int | None
    state: str | None
    entity: Values
    as_of: datetime
    served: Served | None
    logged: LoggedRow | None
    before: tuple[LoggedRow, ...]
    recomputed: Values | None
    comparisons: tuple[Comparison, ...] = ()
    sources: tuple[SourceEvents, ...] = ()
    additive: Mapping[str, bool | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    blind: bool = False

    @property
    def equal(self) -> bool:
        """Whether served, logged and recomputed were compared, and are equal."""
        return bool(self.comparisons) and all(each.equal for each in self.comparisons)

    @property
    def exit_code(self) -> int:
        """As of the audit: 4 where something is wrong, 3 overdue, 5 where a side was not seen."""
        causes = {each.cause for each in self.comparisons} - {None, LAG}
        if causes - {OVERDUE}:
            return WRONG
        if self.blind:
            return NOT_CHECKED
        return ATTENTION if causes else OK

    def to_json(self) -> dict[str, Any]:
        """As JSON's types: times as ISO 8601, numbers that JSON lacks as texts."""
        told: dict[str, Any] = _plain(self)
        return told | {"equal": self.equal}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)
