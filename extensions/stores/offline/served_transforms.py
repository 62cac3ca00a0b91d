"""Transforms by moment: each label gets the version of a transform that was the default then.

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

from extensions.errors import SkewlessError
from extensions.stores.offline.arrow_types import arrow_type
from extensions.stores.offline.point_in_time import ViewJoin, labelled, view_join, within
from extensions.stores.registry.eras import TransformEra
from extensions.stores.registry.feast_rows import parse

# Columns that the join returns for transforms alone, and that nobody asked for.
_HIDDEN = "_served_"


@dataclass(frozen=True)
class Version:
    """A version, its moments as PostgreSQL's tstzmultirange, and its function.

    ``inputs``: what the function reads, and in which column of the join's answer that is. None:
    a view that it read is gone, and what was served then is not known any more.
    """

    version: int
    moments: str
    view: OnDemandFeatureView
    inputs: Mapping[str, str] | None


class ServedTransform:
    """A transform that was switched. Like Feast's, as far as a retrieval job is concerned.

    ``column``: of the join's answer, the number of the version that each label gets.
    """

    def __init__(
        self, default: OnDemandFeatureView, versions: Sequence[Version], column: str
    ) -> None:
        self.name: str = default.name
        self.projection = default.projection
        self.features = default.features
        self.versions = tuple(versions)
        self.column = column
        self._default = default

    @property
    def hidden(self) -> frozenset[str]:
        """The columns of the join's answer that are there for this transform alone."""
        inputs = (name for one in self.versions for name in (one.inputs or {}).values())
        return frozenset([self.column, *(name for name in inputs if name.startswith(_HIDDEN))])

    def chosen(self) -> sql.Composed:
        """The expression of `column`, over the label ``e``."""
        cases = [
            sql.SQL("WHEN {} THEN {}").format(within(one.moments), sql.Literal(one.version))
            for one in self.versions
        ]
        return sql.SQL("CASE {} END AS {}").format(
            sql.SQL(" ").join(cases), sql.Identifier(self.column)
        )

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        """The default's features for each row of the join's answer, by the row's version.

        What a version did not have is null.

        Raises:
            SkewlessError: a row's version needs what a request brings, and the labels lack it;
                or its features were of types that do not become the default's.
        """
        rows = table.drop_columns([name for name in self.hidden if name in table.column_names])
        if not table.num_rows:
            return self._default.transform_arrow(rows, full_feature_names)
        numbers = table[self.column].to_numpy()
        answers, places = [], []
        for one in self.versions:
            of_version = np.flatnonzero(numbers == one.version)
            if len(of_version):
                answers.append(self._answer(one, table, rows, of_version, full_feature_names))
                places.append(of_version)
        return pa.concat_tables(answers).take(np.argsort(np.concatenate(places), kind="stable"))

    def _answer(
        self, one: Version, table: pa.Table, rows: pa.Table, places: Any, full: bool
    ) -> pa.Table:
        used: str = self.projection.name_to_use()  # type: ignore[no-untyped-call]
        names = [f"{used}__{one.name}" if full else one.name for one in self.features]
        had = {feature.name for feature in one.view.features}
        types = [arrow_type(feature.dtype) for feature in self.features]
        if one.inputs is None:
            return pa.table(
                {n: pa.nulls(len(places), t) for n, t in zip(names, types, strict=True)}
            )
        mine = rows.take(places)
        for name, column in one.inputs.items():
            if name != column:
                mine = mine.drop_columns([name] if name in mine.column_names else [])
                mine = mine.append_column(name, table[column].take(places))
        for name in one.view.get_request_data_schema():
            if name not in mine.column_names:
                raise SkewlessError(
                    f"The transform {self.name} v{one.version}, which was served at the moment "
                    f"of {len(places)} labels, needs {name}, which a request brings: add the "
                    f"column {name} to the labels, or name a version."
                )
        made = one.view.transform_arrow(mine, full)
        columns = {}
        for name, feature, kind in zip(names, self.features, types, strict=True):
            if feature.name not in had:
                columns[name] = pa.chunked_array([pa.nulls(len(places), kind)])
                continue
            try:
                columns[name] = made[name].cast(kind, safe=False)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise SkewlessError(
                    f"{self.name}:{feature.name} of v{one.version} cannot be had as {kind}, which "
                    f"it is in the default: name a version ({self.name}@v{one.version})."
                ) from error
        return pa.table(columns)


def by_moment(
    transforms: Sequence[OnDemandFeatureView],
    joins: Sequence[ViewJoin],
    registry: BaseRegistry,
    project: str,
    *,
    full_feature_names: bool,
) -> tuple[list[OnDemandFeatureView | ServedTransform], tuple[ViewJoin, ...]]:
    """The transforms, those that were switched as `ServedTransform`; and the joins that they need.

    What only an older version reads is joined in columns of its own.
    """
    inputs = _Inputs(joins, registry, project, full_feature_names=full_feature_names)
    found: list[OnDemandFeatureView | ServedTransform] = []
    for transform in transforms:
        eras: tuple[TransformEra, ...] = ()
        if transform.projection.version_tag is None and hasattr(registry, "transform_eras"):
            eras = registry.transform_eras(transform.name)
        if not eras:
            found.append(transform)
            continue
        versions = [inputs.version(era, transform) for era in eras]
        found.append(ServedTransform(transform, versions, f"{_HIDDEN}version_{len(found)}"))
    return found, labelled(inputs.joins)


class _Inputs:
    """Where the join's answer has what transforms read; the join is widened where it has not."""

    def __init__(
        self,
        joins: Sequence[ViewJoin],
        registry: BaseRegistry,
        project: str,
        *,
        full_feature_names: bool,
    ) -> None:
        self.joins = list(joins)
        self._registry, self._project, self._full = registry, project, full_feature_names
        self._added: dict[tuple[str, str], str] = {}

    def version(self, era: TransformEra, default: OnDemandFeatureView) -> Version:
        """A version as the labels of its moments need it."""
        if era.version == default.current_version_number:
            return Version(era.version, era.moments, default, {})
        view = OnDemandFeatureView.from_proto(parse("transform", era.feast_proto))
        source = getattr(view.feature_transformation, "udf_string", "")
        inputs: dict[str, str] = {}
        for projection in view.source_feature_view_projections.values():
            for feature in projection.features:
                name = f"{projection.name}__{feature.name}" if self._full else feature.name
                column = self._column(projection.name, feature.name)
                if column is not None:
                    inputs.setdefault(name, column)
                elif feature.name in source:
                    return Version(era.version, era.moments, view, None)
        return Version(era.version, era.moments, view, inputs)

    def _column(self, view: str, feature: str) -> str | None:
        """The column of the answer; None where the view has no such feature any more."""
        for join in self.joins:
            there = {held.output for held in join.features}
            output = f"{join.name}__{feature}" if self._full else feature
            if join.name.partition("@")[0] == view and output in there:
                return output
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
            for names in ({one.name for one in known.features}, *(era.defaults for era in eras))
        ):
            return False
        join = view_join(known, [feature], full_feature_names=False)
        output = f"{_HIDDEN}input_{len(self._added)}"
        hidden = tuple(replace(one, output=output) for one in join.features)
        for i, other in enumerate(self.joins):
            if other.name == join.name:
                self.joins[i] = replace(other, features=(*other.features, *hidden))
                break
        else:
            self.joins.append(replace(join, features=hidden, eras=eras))
        self._added[view, feature] = output
        return True
