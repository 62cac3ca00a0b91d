"""Transforms in training: each label gets the version of a transform that was the default then.

As with views (`eras`), a reference without a version means what was served. Feast's own row has
the default's function alone; those of all versions are kept with what was published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from feast.errors import FeatureViewNotFoundException
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from psycopg import sql

from extensions.errors import DefinitionError, InputError
from extensions.feature_types import arrow_type
from extensions.stores.offline.join.point_in_time import (
    HIDDEN,
    ViewJoin,
    label_time_in,
    view_join,
    with_labels,
)
from extensions.stores.registry.feast_registry_rows import parse
from extensions.stores.registry.version_timeline import TransformEra
from extensions.stores.transform_inputs import inputs_of
from extensions.user_code_errors import user_transform


@dataclass(frozen=True)
class Version:
    """A version, its times as PostgreSQL's tstzmultirange, and its function.

    ``valid_times`` None: it is the only one. ``inputs``: by an input's long name, the column of the
    join's answer that holds it. None: a view that it read is gone, and what was served then is
    not known any more.
    """

    version: int
    valid_times: str | None
    view: OnDemandFeatureView
    inputs: Mapping[str, str] | None


class VersionedTransform:
    """A transform in the versions that were served. Like Feast's, as far as a job is concerned.

    ``column``: of the join's answer, the number of the version that each label gets; None where
    there is one version alone.
    """

    def __init__(
        self, default: OnDemandFeatureView, versions: Sequence[Version], column: str | None = None
    ) -> None:
        self.name: str = default.name
        self.projection = default.projection
        self.features = default.features
        self.versions = tuple(versions)
        self.column = column

    def chosen(self) -> sql.Composed:
        """The expression of `column`, over the label ``e``."""
        assert self.column is not None
        cases = [
            sql.SQL("WHEN {} THEN {}").format(
                label_time_in(str(version.valid_times)), sql.Literal(version.version)
            )
            for version in self.versions
        ]
        return sql.SQL("CASE {} END AS {}").format(
            sql.SQL(" ").join(cases), sql.Identifier(self.column)
        )

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        """The default's features for each row of the join's answer, by the row's version.

        What a version did not have is null. No rows are no call of a function.

        Raises:
            SkewlessError: a row's version needs what a request brings, and the labels lack it;
                or its features were of types that do not become the default's.
        """
        if not table.num_rows:
            return self._nothing(0, full_feature_names)
        if self.column is None:
            [only] = self.versions
            return self._answer(only, table, None, full_feature_names)
        numbers = table[self.column].to_numpy()
        answers, places = [], []
        for version in self.versions:
            of_version = np.flatnonzero(numbers == version.version)
            if len(of_version):
                answers.append(self._answer(version, table, of_version, full_feature_names))
                places.append(of_version)
        return pa.concat_tables(answers).take(np.argsort(np.concatenate(places), kind="stable"))

    def _names(self, full: bool) -> list[str]:
        used: str = self.projection.name_to_use()  # type: ignore[no-untyped-call]
        return [f"{used}__{feature.name}" if full else feature.name for feature in self.features]

    def _nothing(self, rows: int, full: bool) -> pa.Table:
        types = [arrow_type(feature.dtype) for feature in self.features]
        return pa.table(
            {n: pa.nulls(rows, t) for n, t in zip(self._names(full), types, strict=True)}
        )

    def _answer(self, version: Version, table: pa.Table, places: Any, full: bool) -> pa.Table:
        """``places``: of the rows that get this version; None: all."""
        rows = table.num_rows if places is None else len(places)
        if version.inputs is None:
            return self._nothing(rows, full)
        mine = _inputs(version, table if places is None else table.take(places))
        for name in version.view.get_request_data_schema():
            if name not in mine.column_names:
                raise InputError(
                    f"The transform {self.name} v{version.version}, which was served at the time "
                    f"of {rows} labels, needs {name}, which a request brings: add the "
                    f"column {name} to the labels, or name a version."
                )
        had = {feature.name for feature in version.view.features}
        with user_transform(f"{self.name} v{version.version}"):
            made = version.view.transform_arrow(mine, full)
        columns = {}
        for name, feature in zip(self._names(full), self.features, strict=True):
            kind = arrow_type(feature.dtype)
            if feature.name not in had:
                columns[name] = pa.chunked_array([pa.nulls(rows, kind)])
                continue
            if name not in made.column_names:
                raise DefinitionError(
                    f"The transform {self.name} made no column {feature.name}, which it declares."
                )
            try:
                columns[name] = made[name].cast(kind, safe=False)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise InputError(
                    f"{self.name}:{feature.name} of v{version.version} cannot be had as {kind}, "
                    f"which it is in the default: name a version ({self.name}@v{version.version})."
                ) from error
        return pa.table(columns)


def _inputs(version: Version, rows: pa.Table) -> pa.Table:
    """What a function may see: the labels and its own inputs, each under its long name."""
    assert version.inputs is not None
    request = version.view.get_request_data_schema()
    given = {
        name: rows[name]
        for name in rows.column_names
        if not name.startswith(HIDDEN)
    }  # fmt: skip
    for read in inputs_of(version.view):
        given.pop(read.long, None)
        if read.feature not in request:
            given.pop(read.feature, None)
    given |= {long: rows[column] for long, column in version.inputs.items()}
    return pa.table(given)


def by_names(
    transforms: Sequence[OnDemandFeatureView], *, full_feature_names: bool
) -> list[VersionedTransform]:
    """The transforms over rows whose columns are named as Feast names them.

    Raises:
        InputError: two inputs of a transform would have one name.
    """
    found = []
    for transform in transforms:
        inputs = {}
        for read in inputs_of(transform):
            if read.short is None and not full_feature_names:
                raise InputError(
                    f"The transform {transform.name} reads {read.feature} of several views: ask "
                    "with full_feature_names=True."
                )
            inputs[read.long] = read.long if full_feature_names else read.feature
        found.append(VersionedTransform(transform, [Version(0, None, transform, inputs)]))
    return found


def by_label_time(
    transforms: Sequence[OnDemandFeatureView],
    joins: Sequence[ViewJoin],
    registry: BaseRegistry,
    project: str,
) -> tuple[list[VersionedTransform], tuple[ViewJoin, ...]]:
    """The transforms in the versions that were served, and the joins that they need.

    What only an older version reads is joined in columns of its own.
    """
    inputs = _Inputs(joins, registry, project)
    found: list[VersionedTransform] = []
    for transform in transforms:
        eras: tuple[TransformEra, ...] = ()
        if transform.projection.version_tag is None and hasattr(registry, "transform_eras"):
            eras = registry.transform_eras(transform.name)
        if eras:
            versions = [inputs.version(era, transform) for era in eras]
            found.append(VersionedTransform(transform, versions, f"{HIDDEN}version_{len(found)}"))
        else:
            found.append(VersionedTransform(transform, [inputs.only(transform)]))
    return found, with_labels(inputs.joins)


class _Inputs:
    """Where the join's answer has what transforms read; the join is widened where it has not."""

    def __init__(self, joins: Sequence[ViewJoin], registry: BaseRegistry, project: str) -> None:
        self.joins = list(joins)
        self._registry, self._project = registry, project
        self._added: dict[tuple[str, str], str] = {}

    def only(self, view: OnDemandFeatureView) -> Version:
        """A transform that has always been what it is."""
        found = {}
        for read in inputs_of(view):
            column = self._joined(read.view, read.feature)
            if column is not None:
                found[read.long] = column
        return Version(view.current_version_number or 0, None, view, found)

    def version(self, era: TransformEra, default: OnDemandFeatureView) -> Version:
        """A version as the labels of its times need it."""
        if era.version == default.current_version_number:
            return replace(self.only(default), version=era.version, valid_times=era.valid_times)
        view = OnDemandFeatureView.from_proto(parse("transform", era.feast_proto))
        source = getattr(view.feature_transformation, "udf_string", "")
        inputs: dict[str, str] = {}
        for read in inputs_of(view):
            column = self._column(read.view, read.feature)
            if column is not None:
                inputs[read.long] = column
            elif read.feature in source:
                return Version(era.version, era.valid_times, view, None)
        return Version(era.version, era.valid_times, view, inputs)

    def _joined(self, view: str, feature: str) -> str | None:
        """The column of the answer; of a view in two versions, that which was named first."""
        for join in self.joins:
            if view in {join.view, join.name.partition("@")[0]}:
                for held in join.features:
                    if held.name == feature:
                        return held.output
        return None

    def _column(self, view: str, feature: str) -> str | None:
        """The column of the answer; None where the view has no such feature any more."""
        found = self._joined(view, feature)
        if found is not None:
            return found
        if (view, feature) not in self._added and not self._add(view, feature):
            return None
        return self._added[view, feature]

    def _add(self, view: str, feature: str) -> bool:
        try:
            known: Any = self._registry.get_any_feature_view(view, self._project, allow_cache=True)
        except FeatureViewNotFoundException:
            return False
        eras = self._registry.served_eras(view)  # type: ignore[attr-defined]
        if not any(
            feature in names
            for names in (
                {feature.name for feature in known.features},
                *(era.defaults for era in eras),
            )
        ):
            return False
        join = view_join(known, [feature], full_feature_names=False)
        output = f"{HIDDEN}input_{len(self._added)}"
        hidden = tuple(replace(feature, output=output) for feature in join.features)
        for i, other in enumerate(self.joins):
            if other.name == join.name:
                self.joins[i] = replace(other, features=(*other.features, *hidden))
                break
        else:
            self.joins.append(replace(join, features=hidden, eras=eras))
        self._added[view, feature] = output
        return True
