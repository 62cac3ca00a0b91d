"""The functions of declared aggregations: which columns, feature types and tags each takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

WHOLE = ("INT32", "INT64")
FLOATS = ("FLOAT32", "FLOAT64")
_ORDERED = (*WHOLE, *FLOATS, "STRING", "UNIX_TIMESTAMP")
_ELEMENTS = (*WHOLE, *FLOATS, "STRING", "BOOL")

# Tags of a Field that only some functions take. ``filter`` is taken by all.
DECAY_TAGS = ("half_life", "decay_rate")
FUNCTION_TAGS = (*DECAY_TAGS, "limit", "divide_by")


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        name: As `Aggregation.function` names it.
        column: Whether it aggregates a column: it must, it may, or it must not.
        types: The feature types that it can make; of a list, the types of its elements.
        makes_list: Whether the feature is a list.
        tags: The tags of `FUNCTION_TAGS` that its Field may have.
        decays: Whether its value changes as time passes.
        ordered: Whether the order of rows decides its value.
    """

    name: str
    column: Literal["must", "may", "none"]
    types: tuple[str, ...]
    makes_list: bool = False
    tags: tuple[str, ...] = ()
    decays: bool = False
    ordered: bool = True


FUNCTIONS: Mapping[str, Function] = {
    each.name: each
    for each in (
        Function("count", "may", WHOLE, ordered=False),
        Function("count_distinct", "must", WHOLE, ordered=False),
        Function("sum", "must", (*WHOLE, *FLOATS), tags=("divide_by",)),
        Function("mean", "must", FLOATS, tags=("divide_by",)),
        Function("stddev", "must", FLOATS, tags=("divide_by",)),
        Function("min", "must", _ORDERED, tags=("divide_by",), ordered=False),
        Function("max", "must", _ORDERED, tags=("divide_by",), ordered=False),
        Function("first", "must", (*_ORDERED, "BOOL"), tags=("divide_by",)),
        Function("last", "must", (*_ORDERED, "BOOL"), tags=("divide_by",)),
        Function("last_n", "must", _ELEMENTS, makes_list=True, tags=("limit",)),
        Function("top_k", "must", _ELEMENTS, makes_list=True, tags=("limit",), ordered=False),
        Function("decayed_sum", "must", FLOATS, tags=(*DECAY_TAGS, "divide_by"), decays=True),
        Function("decayed_count", "none", FLOATS, tags=(*DECAY_TAGS, "divide_by"), decays=True),
        Function(
            "time_since", "may", (*WHOLE, *FLOATS), tags=("divide_by",), decays=True, ordered=False
        ),
    )
}

# What other systems call them.
SYNONYMS: Mapping[str, str] = {
    "avg": "mean",
    "average": "mean",
    "std": "stddev",
    "stddev_samp": "stddev",
    "nunique": "count_distinct",
    "unique": "count_distinct",
    "approx_count_distinct": "count_distinct",
    "latest": "last",
    "earliest": "first",
    "collect_list": "last_n",
    "mode": "top_k",
    "minimum": "min",
    "maximum": "max",
}
