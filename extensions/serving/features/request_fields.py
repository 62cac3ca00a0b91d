"""Request fields: what transforms read of the request itself (fields of Feast's `RequestSource`).

A field's tags say what Feast's `Field` has no place for:

``minimum``, ``maximum``  JSON numbers; a value outside of them is refused
``default``               JSON; the value where the request gives none
``default_from``          ``utc_hour``: the current hour of day in UTC, 0 to 23
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from feast import Field, ValueType
from feast.on_demand_feature_view import OnDemandFeatureView

from extensions.errors import DefinitionError

_CLOCK: Mapping[str, Callable[[], Any]] = {"utc_hour": lambda: datetime.now(UTC).hour}


@dataclass(frozen=True)
class RequestField:
    """One field of the request. ``default``: called for each request that does not give it."""

    name: str
    value_type: ValueType
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    default: Callable[[], Any] | None = None

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
        default: Callable[[], Any] | None = None
        if "default" in field.tags:
            value = _json(field.tags["default"], where)
            default = lambda: value  # noqa: E731
        elif (clock := field.tags.get("default_from")) is not None:
            if clock not in _CLOCK:
                raise DefinitionError(
                    f"{where}: the tag default_from is one of {', '.join(_CLOCK)}, not {clock}."
                )
            default = _CLOCK[clock]
        return cls(
            field.name, field.dtype.to_value_type(), field.description, default=default, **bounds
        )

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


def _json(text: str, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise DefinitionError(f"{where}: the tag {text!r} is not JSON.") from None
