"""Features as a drift check sees them, each with its distribution in a training set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feast import ValueType
from feast.types import Array, FeastType, PrimitiveFeastType, from_value_type

from extensions.feature_types import FEATURE_TYPES

NUMERIC, CATEGORICAL, EMBEDDING = "numeric", "categorical", "embedding"

_NUMBERS = {each.name for each in FEATURE_TYPES.values() if each.numeric}
_TEXTS = {"STRING", "BOOL"}


@dataclass(frozen=True)
class Feature:
    """One feature as a service returns it. ``keys``: whose it is. ``version`` 0: a transform.

    ``dtype`` is the name of Feast's value type. Of a transform ``reads`` are the views and
    ``requests`` the fields of the request that it is computed from; ``read_keys`` are the join keys
    of those views, where the registry told them.
    """

    view: str
    name: str
    dtype: str
    version: int
    keys: tuple[str, ...]
    reads: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    read_keys: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> "Feature":
        """Read what `dataclasses.asdict` gave, now or in an earlier release."""
        lists = {
            name: tuple(held.get(name, ())) for name in ("keys", "reads", "requests", "read_keys")
        }
        return cls(**{**held, **lists})

    @property
    def label(self) -> str:
        """``view:feature``, Feast's own way of naming it."""
        return f"{self.view}:{self.name}"

    @property
    def type(self) -> FeastType:
        """The declared type."""
        return from_value_type(ValueType[self.dtype])

    @property
    def kind(self) -> str | None:
        """How it is compared; None for what is only counted (times, bytes, lists of texts)."""
        return kind_of(self.type)


@dataclass(frozen=True)
class FeatureBaseline:
    """A feature's distribution over ``rows`` labels; ``content`` depends on its kind.

    numeric: ``edges`` (ascending; the first below the least value, the last above the greatest),
    ``weights`` of the bins, ``centers`` (the median of each bin but the outermost two, which are
    empty), ``mean``, ``sd``, ``kurtosis`` (fourth standardized moment), ``minimum``,
    ``maximum``. categorical: ``frequencies``, ``other`` (share beyond the kept ones),
    ``counted`` (rows that the frequencies are of). embedding: ``means``, ``sds``, ``kurtoses``
    by dimension, ``anchors`` (keys and vector). All: ``strata``, see `stratified_baselines`, where
    the feature follows the hour, the weekday or the request; ``entities`` and ``parts``, see
    monitoring/statistics/repeated_entities.py, where its entities are known; ``requests``, see
    monitoring/statistics/shared_by_requests.py, where it is computed from what requests bring.
    """

    feature: Feature
    rows: int
    null_rate: float
    default_rate: float | None
    content: Mapping[str, Any]

    @property
    def values(self) -> int:
        """Rows that are not null."""
        return round(self.rows * (1 - self.null_rate))


def kind_of(dtype: FeastType) -> str | None:
    """How features of a type are compared."""
    if isinstance(dtype, Array):
        return EMBEDDING if getattr(dtype.base_type, "name", "") in _NUMBERS else None
    if isinstance(dtype, PrimitiveFeastType):
        if dtype.name in _NUMBERS:
            return NUMERIC
        return CATEGORICAL if dtype.name in _TEXTS else None
    return None
