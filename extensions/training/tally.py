"""What is counted while a training set is written: rows, nulls, defaults, labels too new."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from extensions.training.digest import ContentDigest
from extensions.training.manifest import Column


@dataclass(frozen=True)
class WatchedView:
    """A view and the moment up to which its log is complete, if that is known."""

    name: str
    processed_through: datetime | None


class Tally:
    """Counts over the pieces of one training set, each looked at once."""

    def __init__(
        self, timestamp_column: str, views: list[WatchedView], known_at: datetime, *, full: bool
    ) -> None:
        self.known_at = known_at
        self.full = full
        self.rows = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.digest = ContentDigest()
        self._timestamp_column = timestamp_column
        self._views = views
        self._schema: pa.Schema | None = None
        self._nulls: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._too_new: Counter[str] = Counter()
        self._after_known = 0

    def count(self, piece: pa.Table) -> pa.Table:
        """Count ``piece``, a full answer; returns the columns that are kept of it."""
        details = [
            name for view in self._views for name in (f"{view.name}__age_seconds", _found(view))
        ]
        kept = piece if self.full else piece.drop_columns(details)
        self._schema = self._schema or kept.schema
        self.digest.update(kept)
        self.rows += piece.num_rows
        for name in kept.column_names:
            self._nulls[name] += kept[name].null_count
        moments = piece[self._timestamp_column].cast(pa.timestamp("us", "UTC"), safe=False)
        for view in self._views:
            self._missing[view.name] += _count(pc.invert(piece[_found(view)]))
            if view.processed_through is not None:
                self._too_new[view.name] += _count(
                    pc.greater(moments, _scalar(view.processed_through))
                )
        self._after_known += _count(pc.greater(moments, _scalar(self.known_at)))
        bounds = pc.min_max(moments)
        if bounds["min"].is_valid:
            first, last = bounds["min"].as_py(), bounds["max"].as_py()
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)
        return kept

    def default_rates(self) -> dict[str, float]:
        """By view: the share of labels for which its log had no row."""
        return {view.name: self._rate(self._missing[view.name]) for view in self._views}

    def columns(self, default_rates: dict[str, float]) -> tuple[Column, ...]:
        """What is said of each column that was kept."""
        return tuple(
            Column(
                field.name,
                str(field.type),
                self._rate(self._nulls[field.name]),
                default_rates.get(field.name),
            )
            for field in self._schema or []
        )

    def warnings(self) -> list[str]:
        """One sentence each: what a reader of the training set should know."""
        said = []
        for view in self._views:
            if view.processed_through is None:
                said.append(
                    f"The log of {view.name} has no watermark: it may be incomplete; run "
                    "`skewless refresh` or `skewless backfill`."
                )
            elif too_new := self._too_new[view.name]:
                said.append(
                    f"{too_new} of {self.rows} labels are newer than the log of {view.name}, "
                    f"which is complete up to {view.processed_through.isoformat()}: what they "
                    "were joined to may still change."
                )
        if self._after_known:
            said.append(
                f"{self._after_known} of {self.rows} labels are newer than "
                f"{self.known_at.isoformat()}, up to which the logs were read."
            )
        return said

    def _rate(self, number: int) -> float:
        return number / self.rows if self.rows else 0.0


def _found(view: WatchedView) -> str:
    return f"{view.name}__found"


def _count(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags).as_py() or 0)


def _scalar(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, pa.timestamp("us", "UTC"))
