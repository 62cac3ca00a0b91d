"""What an on-demand transform reads, and under which names: one rule for training and serving.

An input is a feature of one of the transform's source views. Its long name, ``view__feature``, is
always there; its short name, ``feature``, where no other input and no request field has it too.
Outputs are the transform's own, also where one is named like an input.

Feast 0.67 gives a short name that two inputs share to the one that comes last, and takes an output
away that is named like an input. So this module puts its functions in the place of the two of
`OnDemandFeatureView` that name inputs; training, Feast's own online code and our routes then agree.
"""

from collections import Counter
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pyarrow as pa
from feast.on_demand_feature_view import OnDemandFeatureView

from extensions.errors import InputError


@dataclass(frozen=True)
class Input:
    """A feature that a transform reads; ``short`` None: its name is not its own."""

    view: str
    feature: str
    short: str | None

    @property
    def long(self) -> str:
        """The name that no other input has."""
        return f"{self.view}__{self.feature}"


def inputs_of(view: OnDemandFeatureView) -> tuple[Input, ...]:
    """The features that a transform reads, in the order of its sources."""
    sources = view.source_feature_view_projections.values()
    read = [(source.name, field.name) for source in sources for field in source.features]
    names = Counter(feature for _, feature in read)
    names.update(list(view.get_request_data_schema()))
    return tuple(
        Input(source, feature, feature if names[feature] == 1 else None) for source, feature in read
    )


def _source(given: Any, one: Input, view: OnDemandFeatureView) -> str | None:
    """The column among ``given`` that holds an input; None where there is none.

    Raises:
        InputError: there is a column of its short name, which is another's too.
    """
    if one.long in given:
        return one.long
    if one.feature not in given:
        return None
    if one.short is None and one.feature not in view.get_request_data_schema():
        raise InputError(
            f"The transform {view.name} reads {one.feature} of several views, and a result with "
            "short names has only one column of that name: ask with full_feature_names=True."
        )
    return one.feature if one.short else None


def _preprocess_arrow_table(
    self: OnDemandFeatureView, pa_table: pa.Table
) -> tuple[pa.Table, list[str]]:
    added = []
    given = pa_table.column_names
    for one in inputs_of(self):
        column = _source(given, one, self)
        for name in (one.long, one.short):
            if column and name and name not in pa_table.column_names:
                pa_table = pa_table.append_column(name, pa_table[column])
                added.append(name)
    return pa_table, _to_drop(self, added)


def _preprocess_feature_dict(
    self: OnDemandFeatureView, feature_dict: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    inputs, added = dict(feature_dict), []
    for one in inputs_of(self):
        column = _source(feature_dict, one, self)
        for name in (one.long, one.short):
            if column and name and name not in inputs:
                inputs[name] = feature_dict[column]
                added.append(name)
    return inputs, _to_drop(self, added)


def _to_drop(view: OnDemandFeatureView, added: list[str]) -> list[str]:
    """Inputs that a transform may hand back, and that are not its outputs."""
    outputs = {field.name for field in view.features}
    return [name for name in added if name not in outputs]


def install() -> None:
    """Put the functions in the place of Feast's."""
    for function in (_preprocess_arrow_table, _preprocess_feature_dict):
        original = getattr(OnDemandFeatureView, function.__name__)
        setattr(OnDemandFeatureView, function.__name__, wraps(original)(function))
