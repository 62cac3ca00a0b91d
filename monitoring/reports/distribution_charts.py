"""Charts of one feature: the training set's distribution beside the one that was served."""

from collections.abc import Mapping
from typing import Any

from extensions.reports import charts
from extensions.reports.charts import Series
from extensions.reports.html import Markup, element
from monitoring.baselines.feature_baseline import (
    CATEGORICAL,
    EMBEDDING,
    NUMERIC,
    FeatureBaseline,
)

MOST_CATEGORIES = 15
_TRAINING, _SERVED = Series("training set", "first"), Series("served", "second")


def distribution_chart(feature: FeatureBaseline, live: Mapping[str, Any]) -> Markup:
    """Both distributions of a feature; nothing where the window has no values.

    Args:
        feature: the baseline that the window was compared with.
        live: what the window's expectations measured of it.
    """
    draw = {NUMERIC: _numbers, CATEGORICAL: _categories, EMBEDDING: _dimensions}
    kind = feature.feature.kind
    return draw[kind](feature, live) if kind in draw else Markup("")


def _numbers(feature: FeatureBaseline, live: Mapping[str, Any]) -> Markup:
    edges, name = feature.content["edges"], feature.feature.name
    if "counts" not in live:
        return Markup("")
    trained, served = list(feature.content["weights"]), list(live["counts"])
    # The outermost bins lie beyond the training set's range.
    if len(edges) > 1 and not trained[0] and not served[0]:
        edges, trained, served = edges[1:], trained[1:], served[1:]
    if len(edges) > 1 and not trained[-1] and not served[-1]:
        edges, trained, served = edges[:-1], trained[:-1], served[:-1]
    caption = f"{name}: share of rows by value"
    sides = [(_TRAINING, trained), (_SERVED, served)]
    return _figure(caption, charts.histogram(caption, edges, sides, name))


def _categories(feature: FeatureBaseline, live: Mapping[str, Any]) -> Markup:
    if "counts" not in live:
        return Markup("")
    frequencies, counts = feature.content["frequencies"], live["counts"]
    total = sum(counts.values()) + live["other"] or 1
    served = {name: rows / total for name, rows in counts.items()}
    ranked = sorted(
        {*frequencies, *served},
        key=lambda name: (-max(frequencies.get(name, 0), served.get(name, 0)), name),
    )
    shown = ranked[:MOST_CATEGORIES]
    sides = [[side.get(name, 0.0) for name in shown] for side in (frequencies, served)]
    names = [name if name in frequencies else f"{name} (not in training)" for name in shown]
    rest = [max(0.0, 1 - sum(side)) for side in sides]
    if len(ranked) > len(shown) or max(rest) > 1e-9:
        names.append("all other categories")
        sides = [[*side, left] for side, left in zip(sides, rest, strict=True)]
    caption = f"{feature.feature.name}: share of rows by category"
    both = list(zip((_TRAINING, _SERVED), sides, strict=True))
    return _figure(caption, charts.categories(caption, names, both))


def _dimensions(feature: FeatureBaseline, live: Mapping[str, Any]) -> Markup:
    if "sds" not in live:
        return Markup("")
    caption = f"{feature.feature.name}: standard deviation of each dimension"
    sides = [(_TRAINING, feature.content["sds"]), (_SERVED, live["sds"])]
    return _figure(caption, charts.by_position(caption, sides, "dimension"))


def _figure(caption: str, chart: Markup) -> Markup:
    return element("figure", element("figcaption", caption), chart)
