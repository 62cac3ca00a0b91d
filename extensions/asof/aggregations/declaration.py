"""A view's declared aggregations, read from Feast's `Aggregation`s and the tags of its Fields.

Feast 0.67's registry keeps no aggregations of a batch view: they are read from the files, and what
was published keeps their canonical form (`declaration`) beside the SQL.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from feast import FeatureView

from extensions.asof.aggregations.functions import FUNCTIONS, Function
from extensions.feature_types import unwrapped

# A row's weight is halved so often at most: then it has 2^-64 of what it had, and counts no more.
HALVINGS = 64

_FOREVER = 1e12  # seconds: more than any window may have
_SECONDS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
HALF_LIFE = re.compile(r"([1-9]\d{0,6}) (day|hour|minute|second)s?")
DECAY_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,12})?) per (day|hour|minute|second)")
WHOLE_NUMBER = re.compile(r"[1-9]\d{0,14}")


@dataclass(frozen=True)
class Decay:
    """Exponential decay: a row counts ``exp(-rate * age in seconds / unit)``.

    ``rate`` is decimal text, so that one declaration is one SQL literal.
    """

    rate: str
    unit: int

    @property
    def reach(self) -> timedelta:
        """The age at which a row counts no more, in whole hours from a day on."""
        seconds = min(HALVINGS * math.log(2) * self.unit / float(self.rate), _FOREVER)
        step = 3_600 if seconds > _SECONDS["day"] else 1
        return timedelta(seconds=math.ceil(round(seconds / step, 6)) * step)


@dataclass(frozen=True)
class AggregatedFeature:
    """One feature: ``function`` of ``column`` over the rows of ``window`` that meet ``filter``.

    Attributes:
        name: The feature's.
        function: One of `FUNCTIONS`.
        column: A column of the source; "" for functions of whole rows.
        window: The declared window; None: all history.
        filter: An SQL condition over the source's columns.
        decay: For decayed sums and counts.
        limit: The longest list, for last_n and top_k.
        divide_by: By what the value is divided, such as 60000 for minutes from milliseconds.
        type_name: The feature's type as `FEATURE_TYPES` names it; of a list, of its elements.
    """

    name: str
    function: str
    column: str
    window: timedelta | None
    filter: str | None
    decay: Decay | None
    limit: int | None
    divide_by: int | None
    type_name: str

    @property
    def kind(self) -> Function:
        """The function."""
        return FUNCTIONS[self.function]

    @property
    def span(self) -> timedelta | None:
        """Rows of ``(as_of - span, as_of]`` count: the window, or until they have faded."""
        if self.decay is None:
            return self.window
        return self.decay.reach if self.window is None else min(self.window, self.decay.reach)


def aggregations_of(view: Any) -> list[Any]:
    """Feast's `Aggregation`s of a view; empty for one whose SQL is written by hand."""
    return list(getattr(view, "aggregations", None) or ())


def aggregated_features(view: FeatureView) -> tuple[AggregatedFeature, ...]:
    """The features of a view whose declaration was checked, in the order of its fields."""
    by_name = {feature_name(each): each for each in aggregations_of(view)}
    return tuple(_feature(field, by_name[field.name]) for field in view.features)


def feature_name(aggregation: Any) -> str:
    """The feature that an `Aggregation` makes: its name, else Feast's name for it."""
    name: str = aggregation.resolved_name(aggregation.time_window)
    return name


def view_filter(view: FeatureView) -> str | None:
    """The condition that all rows must meet, from the view's tag ``filter``."""
    return view.tags.get("filter")


def horizon_of(features: tuple[AggregatedFeature, ...]) -> timedelta | None:
    """What is older has no part in any value; None if all history has."""
    return longest(feature.span for feature in features)


def longest(windows: Iterable[timedelta | None]) -> timedelta | None:
    """The longest of some windows; None, which is all history, if one of them is."""
    known = list(windows)
    return None if None in known else max(window for window in known if window is not None)


def decays(features: tuple[AggregatedFeature, ...]) -> bool:
    """Whether a value changes without an event."""
    return any(feature.kind.decays for feature in features)


def canonical(
    features: tuple[AggregatedFeature, ...], condition: str | None, id_column: str | None
) -> str:
    """The declaration as JSON: all that the compiler is given beside schema, keys and source."""
    content = [
        {
            **asdict(each),
            "window": None if each.window is None else each.window.total_seconds(),
        }
        for each in sorted(features, key=lambda each: each.name)
    ]
    return json.dumps({"features": content, "filter": condition, "id": id_column}, sort_keys=True)


def from_canonical(declaration: str) -> Iterator[AggregatedFeature]:
    """The features of a `canonical` declaration."""
    for each in json.loads(declaration)["features"]:
        seconds, decay = each["window"], each["decay"]
        yield AggregatedFeature(
            **{
                **each,
                "window": None if seconds is None else timedelta(seconds=seconds),
                "decay": None if decay is None else Decay(**decay),
            }
        )


def declared_filters(declaration: str) -> list[str]:
    """The distinct filters of a `canonical` declaration."""
    content = json.loads(declaration)
    texts = [content["filter"], *(each["filter"] for each in content["features"])]
    return list(dict.fromkeys(text for text in texts if text is not None))


def read_decay(tags: dict[str, str]) -> Decay | None:
    """The decay that a Field's tags declare; None without one.

    Raises:
        ValueError: it cannot be read; the message is what it must read like.
    """
    if "half_life" in tags:
        match = HALF_LIFE.fullmatch(tags["half_life"])
        if match is None:
            raise ValueError("half_life must read like '3 days' or '12 hours'")
        # The natural logarithm of 2, to the digits of a double.
        return Decay("0.6931471805599453", int(match[1]) * _SECONDS[match[2]])
    if "decay_rate" in tags:
        match = DECAY_RATE.fullmatch(tags["decay_rate"])
        if match is None or Decimal(match[1]) == 0:
            raise ValueError("decay_rate must read like '0.1 per day'")
        return Decay(match[1], _SECONDS[match[2]])
    return None


def _feature(field: Any, aggregation: Any) -> AggregatedFeature:
    tags = field.tags
    return AggregatedFeature(
        name=field.name,
        function=aggregation.function,
        column=aggregation.column,
        window=aggregation.time_window,
        filter=tags.get("filter"),
        decay=read_decay(tags),
        limit=int(tags["limit"]) if "limit" in tags else None,
        divide_by=int(tags["divide_by"]) if "divide_by" in tags else None,
        type_name=unwrapped(field.dtype)[0],
    )
