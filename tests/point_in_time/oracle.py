"""The naive answer: for each label look at every row there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class LogRow:
    keys: tuple[Any, ...]
    event: datetime
    created: datetime
    features: tuple[Any, ...]


@dataclass(frozen=True)
class Label:
    keys: tuple[Any, ...]
    at: datetime


def known(
    log: Sequence[LogRow],
    label: Label,
    *,
    ttl: timedelta | None,
    bitemporal: bool = True,
    known_at: datetime | None = None,
) -> LogRow | None:
    """The row that a request at the label's time would have been served."""
    candidates = [
        row
        for row in log
        if row.keys == label.keys
        and row.event <= label.at
        and (not bitemporal or row.created <= label.at)
        and (known_at is None or row.created <= known_at)
        and (ttl is None or row.event >= label.at - ttl)
    ]
    return max(candidates, key=lambda row: (row.event, row.created), default=None)


def answers(
    log: Sequence[LogRow],
    labels: Sequence[Label],
    defaults: tuple[Any, ...],
    *,
    ttl: timedelta | None = None,
    bitemporal: bool = True,
    known_at: datetime | None = None,
) -> list[tuple[Any, ...]]:
    """One answer per label: the row's values, or the defaults where there is none."""
    rows = [
        known(log, label, ttl=ttl, bitemporal=bitemporal, known_at=known_at) for label in labels
    ]
    return [row.features if row else defaults for row in rows]
