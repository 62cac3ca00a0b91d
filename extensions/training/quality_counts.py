"""Quality counts of a training set, batch by batch: rows, nulls, defaults, uncovered labels."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from extensions.asof.backfill_refusals import NO_HOLES, Holes, hole_sentence
from extensions.asof.log_coverage import NOT_KNOWN, Coverage, before_sentence, gap_sentence
from extensions.training.content_hash import ContentDigest
from extensions.training.manifest import Column, TransformUsed, ViewUsed
from extensions.value_text import exact_time_text

# From this share of labels without a row on, a warning says that a view has no values.
ALL_DEFAULT = 0.99

# Timestamps [since, until); None is unbounded.
Span = tuple[datetime | None, datetime | None]


@dataclass(frozen=True)
class WatchedVersion:
    """A version of a view, which answers the labels of its ``spans``.

    ``label``: what the view's columns are named by. ``table`` None: the log is gone.
    ``processed_through``: up to when the log is complete; None: that is not known.
    ``complete``: nothing will be added to it, since the version was retired.
    ``coverage``: the spans for which the log is complete. ``keys``: the labels' columns of its join
    keys; ``holes``: entities that a backfill left out.
    """

    view: str
    label: str
    version: int
    table: str | None
    spans: tuple[Span, ...] = ((None, None),)
    processed_through: datetime | None = None
    complete: bool = False
    coverage: Coverage = NOT_KNOWN
    keys: tuple[str, ...] = ()
    holes: Holes = NO_HOLES


@dataclass(frozen=True)
class WatchedTransform:
    """A version of a transform (None: it names none), which runs for the labels of ``spans``."""

    name: str
    version: int | None
    spans: tuple[Span, ...] = ((None, None),)


@dataclass
class _Counts:
    """Of a version's labels: all, those without a row, those newer than the log, those older,
    those in its gaps, those of entities that a backfill left out; the latest.
    """

    labels: int = 0
    missing: int = 0
    too_new: int = 0
    before: int = 0
    in_gap: int = 0
    refused: int = 0
    last: datetime | None = None


class QualityCounts:
    """Counts over the batches of one training set, in one pass."""

    def __init__(
        self,
        timestamp_column: str,
        versions: list[WatchedVersion],
        known_at: datetime,
        *,
        transforms: Sequence[WatchedTransform] = (),
        full: bool,
    ) -> None:
        self.known_at = known_at
        self.full = full
        self.rows = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.digest = ContentDigest()
        self._timestamp_column = timestamp_column
        self._counts = {version: _Counts() for version in versions}
        self._transformed = dict.fromkeys(transforms, 0)
        self._schema: pa.Schema | None = None
        self._nulls: Counter[str] = Counter()
        self._after_known = 0

    def count(self, batch: pa.Table) -> pa.Table:
        """Count a batch of the join with all details; returns the columns that are written."""
        details = [
            name
            for label in {version.label: None for version in self._counts}
            for name in (f"{label}__age_seconds", f"{label}__found")
        ]
        kept = batch if self.full else batch.drop_columns(details)
        self._schema = self._schema or kept.schema
        self.digest.update(kept)
        self.rows += batch.num_rows
        for name in kept.column_names:
            self._nulls[name] += kept[name].null_count
        timestamps = batch[self._timestamp_column].cast(pa.timestamp("us", "UTC"), safe=False)
        for version, counts in self._counts.items():
            own = _within(version.spans, timestamps)
            counts.labels += _count(own)
            counts.missing += _count(pc.and_not(own, batch[f"{version.label}__found"]))
            latest = pc.max(timestamps.filter(own)).as_py()
            counts.last = max(filter(None, (counts.last, latest)), default=None)
            if version.processed_through is not None:
                newer = pc.greater(timestamps, _scalar(version.processed_through))
                counts.too_new += _count(pc.and_(own, newer))
            counts.before += _count(pc.and_(own, version.coverage.before(timestamps)))
            counts.in_gap += _count(pc.and_(own, version.coverage.in_gap(timestamps)))
            if version.holes:
                keys = [batch[key] for key in version.keys]
                counts.refused += _count(pc.and_(own, version.holes.flags(keys, timestamps)))
        for transform in self._transformed:
            self._transformed[transform] += _count(_within(transform.spans, timestamps))
        self._after_known += _count(pc.greater(timestamps, _scalar(self.known_at)))
        bounds = pc.min_max(timestamps)
        if bounds["min"].is_valid:
            first, last = bounds["min"].as_py(), bounds["max"].as_py()
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)
        return kept

    def default_rates(self) -> dict[str, float]:
        """By view's label: the share of labels for which its log had no row."""
        missing: Counter[str] = Counter()
        for version, counts in self._counts.items():
            # Where the log is gone the value is null, and not the default.
            missing[version.label] += counts.missing if version.table is not None else 0
        return {label: _rate(number, self.rows) for label, number in missing.items()}

    def used(self) -> tuple[ViewUsed, ...]:
        """By view, the versions that labels got, in the order of the latest label of each.

        Of a view that had no label, its last version.
        """
        of_view: dict[str, list[tuple[WatchedVersion, _Counts]]] = {}
        for version, counts in self._counts.items():
            of_view.setdefault(version.label, []).append((version, counts))
        found = []
        for known in of_view.values():
            got = [(counts.last, version, counts) for version, counts in known if counts.last]
            got.sort(key=lambda one: one[0])
            found += [(version, counts) for _, version, counts in got] or known[-1:]
        return tuple(
            ViewUsed(
                version.view,
                version.version,
                version.table,
                default_rate=_rate(counts.missing, counts.labels),
                labels=counts.labels,
                refused=counts.refused,
            )
            for version, counts in found
        )

    def transforms(self) -> tuple[TransformUsed, ...]:
        """The versions of transforms that labels got."""
        return tuple(
            TransformUsed(one.name, one.version, labels)
            for one, labels in self._transformed.items()
            if labels
        )

    def columns(self, default_rates: dict[str, float]) -> tuple[Column, ...]:
        """Type, null rate and default rate of each column."""
        return tuple(
            Column(
                field.name,
                str(field.type),
                _rate(self._nulls[field.name], self.rows),
                default_rates.get(field.name),
            )
            for field in self._schema or []
        )

    def warnings(self) -> list[str]:
        """One sentence each on labels that were newer, older or elsewhere than the logs cover."""
        warnings = []
        for one, counts in self._counts.items():
            name = one.label if one.spans == ((None, None),) else f"{one.label} v{one.version}"
            if not counts.labels and self.rows:
                continue
            if one.table is None:
                warnings.append(
                    f"{counts.labels} of {self.rows} labels were served {name}, whose log is gone: "
                    "its values are null."
                )
            elif one.processed_through is None and not one.complete:
                warnings.append(
                    f"The log of {name} has no watermark: it may be incomplete; run "
                    "`skewless refresh` or `skewless backfill`."
                )
            elif one.processed_through is not None and counts.too_new:
                warnings.append(
                    f"{counts.too_new} of {self.rows} labels are newer than the log of {name}, "
                    f"which is complete up to {exact_time_text(one.processed_through)}: what they "
                    "were joined to may still change."
                )
            warnings += self._uncovered(name, one, counts)
            if one.table is not None and _rate(counts.missing, counts.labels) >= ALL_DEFAULT:
                warnings.append(
                    f"{counts.missing} of {counts.labels} labels found no row of {name} and got "
                    "its defaults: see that the labels' keys and times are those of the history, "
                    "and that the view was computed (`skewless backfill`)."
                )
        if self._after_known:
            warnings.append(
                f"{self._after_known} of {self.rows} labels are newer than "
                f"{exact_time_text(self.known_at)}, up to which the logs were read."
            )
        return warnings

    def _uncovered(self, name: str, one: WatchedVersion, counts: _Counts) -> Iterator[str]:
        """Labels that the log does not cover: in a gap, in a hole of their entity, before it."""
        if counts.in_gap:
            yield gap_sentence(name, counts.in_gap, self.rows, one.coverage)
        if counts.refused:
            yield hole_sentence(name, counts.refused, self.rows, one.holes)
        if counts.before:
            yield before_sentence(name, counts.before, self.rows, one.coverage)


def _within(spans: tuple[Span, ...], timestamps: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of the timestamps lie in one of the spans."""
    found = pa.chunked_array([pa.repeat(pa.scalar(False), len(timestamps))])
    for since, until in spans:
        own = pc.is_valid(timestamps)
        if since is not None:
            own = pc.and_(own, pc.greater_equal(timestamps, _scalar(since)))
        if until is not None:
            own = pc.and_(own, pc.less(timestamps, _scalar(until)))
        found = pc.or_(found, own)
    return found


def _rate(number: int, of: int) -> float:
    return number / of if of else 0.0


def _count(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags).as_py() or 0)


def _scalar(timestamp: datetime) -> pa.Scalar:
    return pa.scalar(timestamp, pa.timestamp("us", "UTC"))
