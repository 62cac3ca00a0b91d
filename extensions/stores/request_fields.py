"""Request fields: what transforms read of the request itself (fields of Feast's `RequestSource`).

A field's tags say what Feast's `Field` has no place for:

``minimum``, ``maximum``  JSON numbers; a value outside of them is refused
``default``               JSON; the value where the request gives none
``default_from``          taken from the request's time (a label's, in training): ``utc_hour``, the
                          hour of day in UTC, 0 to 23; ``utc_weekday``, 0 (Monday) to 6;
                          ``unix_seconds``, whole seconds since 1970
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
from feast import Field, ValueType
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import FeastType, from_value_type

from extensions.asof.default_parsing import read_default
from extensions.errors import DefinitionError
from extensions.feature_types import arrow_type

_FROM_TIME: Mapping[str, Callable[[datetime], int]] = {
    "utc_hour": lambda at: at.hour,
    "utc_weekday": lambda at: at.weekday(),
    "unix_seconds": lambda at: int(at.timestamp()),
}


@dataclass(frozen=True)
class RequestField:
    """One field of the request.

    ``default_at``: its value in a request of that time (UTC) that does not give it; None: each
    request must.
    """

    name: str
    value_type: ValueType
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    default_at: Callable[[datetime], Any] | None = None

    @classmethod
    def of(cls, field: Field, source: str) -> "RequestField":
        """The field as its request source declares it.

        Raises:
            DefinitionError: a tag cannot be read.
        """
        where = f"Field {field.name} of the request source {source}"
        bounds = {}
        for tag in ("minimum", "maximum"):
            bounds[tag] = bound = _json(field.tags[tag], where) if tag in field.tags else None
            if bound is not None and (
                isinstance(bound, bool) or not isinstance(bound, int | float)
            ):
                raise DefinitionError(f"{where}: the tag {tag} must be a number.")
        default_at: Callable[[datetime], Any] | None = None
        if "default" in field.tags:
            value = _default(source, field)
            default_at = lambda _: value  # noqa: E731
        elif (clock := field.tags.get("default_from")) is not None:
            if clock not in _FROM_TIME:
                raise DefinitionError(
                    f"{where}: the tag default_from is one of {', '.join(_FROM_TIME)}, not {clock}."
                )
            default_at = _FROM_TIME[clock]
        return cls(
            field.name,
            field.dtype.to_value_type(),
            field.description,
            default_at=default_at,
            **bounds,
        )

    @property
    def dtype(self) -> FeastType:
        """Feast's type."""
        return from_value_type(self.value_type)

    def default(self) -> Any:
        """The value in a request of now that does not give it; there must be a default."""
        assert self.default_at is not None  # the caller looked
        return self.default_at(datetime.now(UTC))

    def defaults_at(self, times: pa.ChunkedArray) -> pa.Array:
        """The values in requests of these times that do not give it; there must be a default."""
        assert self.default_at is not None  # the caller looked
        asked = times.to_pylist()
        known = {at: self.default_at(at.astimezone(UTC)) for at in set(asked)}
        values, kind = [known[at] for at in asked], arrow_type(self.dtype)
        if pa.types.is_timestamp(kind):  # Feast's times are whole seconds
            return pa.array(values, pa.int64()).cast(pa.timestamp("s", kind.tz)).cast(kind)
        return pa.array(values, kind)

    @property
    def range_text(self) -> str:
        """The allowed range as a phrase, e.g. ``between 0 and 23``."""
        if self.minimum is None:
            return f"at most {self.maximum}"
        if self.maximum is None:
            return f"at least {self.minimum}"
        return f"between {self.minimum} and {self.maximum}"

    def in_range(self, values: Iterable[Any]) -> bool:
        """Whether all values lie within the declared bounds; NaN and other types do not."""
        low, high = self.minimum, self.maximum
        if low is None and high is None:
            return True
        low = float("-inf") if low is None else low
        high = float("inf") if high is None else high
        return all(isinstance(value, int | float) and low <= value <= high for value in values)


def request_fields(views: Iterable[OnDemandFeatureView]) -> dict[str, RequestField]:
    """The request fields that these on-demand views read, by name.

    Raises:
        DefinitionError: a tag cannot be read.
    """
    return {
        field.name: RequestField.of(field, source.name)
        for view in views
        for source in view.source_request_sources.values()
        for field in source.schema
    }


def _default(source: str, field: Field) -> Any:
    try:
        return read_default(source, field.name, field.tags["default"], field.dtype)
    except ValueError as error:
        raise DefinitionError(str(error)) from None


def _json(text: str, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise DefinitionError(f"{where}: the tag {text!r} is not JSON.") from None
