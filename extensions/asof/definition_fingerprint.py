"""The fingerprint of a view version: its definition, all that decides its values, and a hash.

A published definition is kept in PostgreSQL (`view_versions`) and never changes, so a version can
be computed, compared and described after the files have moved on to the next one.
"""

import ast
import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Literal

from feast import FeatureView, OnDemandFeatureView

from extensions.asof.computation import Computation, FeatureColumn, Freshness, HistorySource
from extensions.asof.sql_normalization import normalised
from extensions.version_names import version_name, view_version

Kind = Literal["computation", "transform"]

# What the compiler of aggregations makes of a declaration; all else is declared.
_COMPILED = ("sql", "horizon", "decays")


@dataclass(frozen=True)
class Definition:
    """``content`` is JSON: for a computation its SQL and schema, for a transform its source."""

    view: str
    version: int
    kind: Kind
    content: Mapping[str, Any]

    @classmethod
    def of_computation(cls, computation: Computation, view: FeatureView) -> "Definition":
        """Schema, SQL, defaults, horizon, freshness, the history that is read, and the ttl."""
        content = asdict(computation)
        del content["view"], content["version"]
        horizon = computation.horizon
        content["horizon"] = None if horizon is None else horizon.total_seconds()
        content["freshness"] = computation.freshness.value
        content["ttl"] = view.ttl.total_seconds() if view.ttl else 0.0
        content["types"] = {field.name: str(field.dtype) for field in view.features}
        if computation.declaration is None:
            del content["declaration"]
        return cls(computation.view, computation.version, "computation", _plain(content))

    @classmethod
    def of_transform(cls, view: OnDemandFeatureView) -> "Definition":
        """Schema, the function's source, and the views and request fields that it reads."""
        content = {
            "source": getattr(view.feature_transformation, "udf_string", ""),
            "mode": str(view.mode),
            "singleton": bool(view.singleton),
            "types": {field.name: str(field.dtype) for field in view.features},
            # Their features follow the default version, as their values do.
            "reads": sorted(
                projection.name for projection in view.source_feature_view_projections.values()
            ),
            "request": {
                field.name: str(field.dtype)
                for source in view.source_request_sources.values()
                for field in source.schema
            },
        }
        return cls(view.name, view_version(view), "transform", _plain(content))

    @property
    def name(self) -> str:
        """``view.vN``."""
        return version_name(self.view, self.version)

    @property
    def budget(self) -> timedelta | None:
        """How far the watermark may lag before values count as stale."""
        if self.kind == "transform":
            return None
        return Freshness(self.content["freshness"]).budget

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in the order of the view."""
        return tuple(self.content["types"])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ when the definition does; the number does not count."""
        text = json.dumps(self.significant(), sort_keys=True)
        return blake2b(f"{self.kind}|{text}".encode(), digest_size=8).hexdigest()

    def significant(self) -> dict[str, Any]:
        """The content with comments, layout and docstrings taken out."""
        content = dict(self.content)
        if self.kind == "computation":
            content["sql"] = normalised(content["sql"])
            content.pop("declaration", None)
            # The order of features matters to readers of the view, not to its values.
            content["key_types"] = sorted(
                zip(content.pop("join_keys"), content["key_types"], strict=True)
            )
            content["features"] = sorted(content["features"], key=lambda one: one["name"])
        else:
            content["source"] = _function(content["source"])
        return content

    def changed(self, other: "Definition") -> list[str]:
        """What differs from ``other``, as phrases for the user; empty if nothing does."""
        mine, theirs = self.significant(), other.significant()
        if self.kind != other.kind:
            return ["kind"]
        names = {"types": "schema", "sql": "SQL", "source": "transform", "features": "schema"}
        parts = [key for key in mine if mine[key] != theirs.get(key)]
        if self._compiled_from_the_same(other):
            parts = [part for part in parts if part not in _COMPILED]
        if "features" in parts and not _schemas_differ(mine, theirs):
            parts[parts.index("features")] = "default"
        return list(dict.fromkeys(names.get(part, part) for part in parts))

    def with_text_of(self, published: "Definition") -> "Definition":
        """This definition, with the compiled text that was published of the same aggregations.

        A compiler that has changed since makes another text of them; the published one stays.
        """
        if not self._compiled_from_the_same(published):
            return self
        kept = {part: published.content[part] for part in _COMPILED}
        return replace(self, content={**self.content, **kept})

    def _compiled_from_the_same(self, other: "Definition") -> bool:
        mine = self.content.get("declaration")
        return mine is not None and mine == other.content.get("declaration")

    def computation(self) -> Computation:
        """What the engine needs to compute this version."""
        content = self.content
        return Computation(
            view=self.view,
            version=self.version,
            sql=content["sql"],
            join_keys=tuple(content["join_keys"]),
            key_types=tuple(content["key_types"]),
            features=tuple(FeatureColumn(**feature) for feature in content["features"]),
            horizon=None if content["horizon"] is None else timedelta(seconds=content["horizon"]),
            freshness=Freshness(content["freshness"]),
            decays=content["decays"],
            reads=tuple(
                HistorySource(**{**source, "keys": tuple(source["keys"])})
                for source in content["reads"]
            ),
            declaration=content.get("declaration"),
        )


def _schemas_differ(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    def schema(content: dict[str, Any]) -> list[tuple[str, str]]:
        return [(feature["name"], feature["pg_type"]) for feature in content["features"]]

    return schema(mine) != schema(theirs)


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """The content as JSON gives it back: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _function(source: str) -> str:
    """A function's source as its syntax tree: without comments, decorators and docstrings."""
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a lambda, cut out of its surroundings
        return " ".join(source.split())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)
