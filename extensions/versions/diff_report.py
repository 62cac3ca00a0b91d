"""The version diff as one HTML file that opens anywhere, without a network."""

from pathlib import Path

from extensions.output_files import whole_file
from extensions.reports import charts
from extensions.reports.charts import Points, Series
from extensions.reports.html import (
    Markup,
    badge,
    document,
    element,
    legend,
    table,
    text_diff,
)
from extensions.reports.numbers import MISSING, number, share, signed, statistic, timestamp
from extensions.statistics.effect_floors import DISTRIBUTION_FLOORS
from extensions.versions.diff import Comparison, FeatureDiff

_CHANGE_LEVELS = ("least", "1 %", "25 %", "median", "75 %", "99 %", "greatest")


def write_html(comparison: Comparison, path: Path) -> None:
    """Write the report to ``path``.

    Raises:
        InputError: no file can be put there.
    """
    with whole_file(path) as partial:
        partial.write_text(render(comparison), encoding="utf-8")


def render(comparison: Comparison) -> str:
    """The report as HTML; charts are drawn in it, nothing is fetched."""
    first, second = f"v{comparison.first}", f"v{comparison.second}"
    title = f"{comparison.view}: {first} and {second}"
    parts = [
        element("h1", title),
        element("p", _sample(comparison)),
        legend({"first": first, "second": second}),
        _overview(comparison),
        *_only(comparison),
        element("h2", "What changed in the SQL"),
        text_diff(*comparison.sql, (first, second)),
        *(_feature(comparison, feature) for feature in comparison.features),
        element("h2", "How to read this"),
        _glossary(),
    ]
    return document(title, *parts)


def _sample(comparison: Comparison) -> str:
    return (
        f"Both versions were computed for the same {comparison.pairs:,} pairs of an entity and an "
        f"instant: entities that were active, at {len(comparison.instants)} daily instants from "
        f"{timestamp(comparison.instants[-1])} to {timestamp(comparison.instants[0])}. That took "
        f"{number(comparison.seconds[0], 3)} s for v{comparison.first} and "
        f"{number(comparison.seconds[1], 3)} s for v{comparison.second}."
    )


def _overview(comparison: Comparison) -> Markup:
    first, second = f"v{comparison.first}", f"v{comparison.second}"
    rows = [
        (
            element("a", feature.name, href=f"#{feature.name}"),
            f"{feature.differing:,} ({share(feature.share)})",
            number(feature.first.mean),
            number(feature.second.mean),
            _effect(feature),
            MISSING if feature.ranking is None else statistic(feature.ranking.spearman),
            MISSING if feature.ranking is None else share(feature.ranking.top_overlap),
        )
        for feature in comparison.features
    ]
    columns = ("Feature", "Values that differ", f"Mean of {first}", f"Mean of {second}",
               "Distribution", "Rank correlation", "Top tenth kept")  # fmt: skip
    caption = f"Features of {comparison.view}, {comparison.pairs:,} pairs each"
    return table(caption, columns, rows, numeric=(1, 2, 3, 5, 6))


def _only(comparison: Comparison) -> list[Markup]:
    versions = (
        (comparison.first, comparison.only_first), (comparison.second, comparison.only_second),
    )  # fmt: skip
    return [
        element("p", f"Only v{version} has: {', '.join(names)}.")
        for version, names in versions
        if names
    ]


def _effect(feature: FeatureDiff) -> Markup:
    if feature.effect is None or feature.verdict is None:
        return Markup(MISSING)
    kind, size = feature.effect
    name = {"psi": "PSI", "js": "JS distance"}[kind]
    return Markup("{} {} {}").format(name, statistic(size), badge(feature.verdict))


def _feature(comparison: Comparison, feature: FeatureDiff) -> Markup:
    description = comparison.descriptions.get(feature.name, "")
    parts = [
        element("h2", feature.name, id=feature.name),
        element("p", description, class_="muted") if description else Markup(""),
        element(
            "p",
            f"{feature.differing:,} of {comparison.pairs:,} values differ "
            f"({share(feature.share)}). ",
            _ranking(feature),
        ),
        _figures(comparison, feature),
        element("div", *_charts(comparison, feature), class_="charts"),
        _counts(comparison, feature),
    ]
    largest = comparison.largest_table(feature.name)
    if largest:
        columns = [name for name in largest[0] if name != "feature"]
        rows = [
            [timestamp(row[name]) if name == "as of" else row[name] for name in columns]
            for row in largest
        ]
        caption = f"The largest differences of {feature.name}"
        parts.append(table(caption, columns, rows, numeric=range(len(columns) - 2, len(columns))))
    return Markup("").join(parts)


def _ranking(feature: FeatureDiff) -> str:
    ranking = feature.ranking
    if ranking is None:
        return ""
    return (
        f"Entities ranked by it keep their order to a rank correlation of "
        f"{statistic(ranking.spearman)}, and {share(ranking.top_overlap)} of the first tenth "
        f"(about {number(ranking.top, 2)} entities) stay in it; the mean of {ranking.rankings} "
        "rankings, one at each instant."
    )


def _figures(comparison: Comparison, feature: FeatureDiff) -> Markup:
    of = "norm" if feature.kind == "embedding" else "value"
    rows = []
    for version, column in ((comparison.first, feature.first), (comparison.second, feature.second)):
        rows.append(
            (
                f"v{version}",
                f"{column.nulls:,} ({share(column.nulls / comparison.pairs)})",
                f"{column.defaults:,} ({share(column.defaults / comparison.pairs)})",
                number(column.mean),
                number(column.sd),
            )
        )
    columns = ("Version", "Null", "Declared default", f"Mean {of}", "Standard deviation")
    made = table(f"{feature.name} in both versions", columns, rows, numeric=(1, 2, 3, 4))
    if feature.kind == "text":
        return made
    what = "Distance" if feature.kind == "embedding" else "Change"
    changes = tuple(signed(value) if feature.kind == "number" else number(value)
                    for value in feature.quantiles)  # fmt: skip
    caption = f"{what} from v{comparison.first} to v{comparison.second}, quantiles over all pairs"
    levels = ("", *_CHANGE_LEVELS)
    return made + table(caption, levels, [(what, *changes)], numeric=range(1, len(levels)))


def _charts(comparison: Comparison, feature: FeatureDiff) -> list[Markup]:
    first, second = f"v{comparison.first}", f"v{comparison.second}"
    distribution, name = feature.distribution, feature.name
    if not distribution.first:
        return [element("p", "One version has no value to draw.", class_="muted")]
    colours = Series(first, "first"), Series(second, "second")
    if feature.kind == "text":
        names, counts = _categories(feature)
        sides = list(zip(colours, counts, strict=True))
        title = f"Share of each category of {name} in {first} and {second}"
        return [_figure(title, charts.categories(title, names, sides))]
    unit = f", {comparison.units[name]}" if comparison.units.get(name) else ""
    label = f"{'norm of ' if feature.kind == 'embedding' else ''}{name}{unit}"
    title = f"Share of rows by {label} in {first} and {second}"
    edges, counts = _drawn_bins(distribution.edges, (distribution.first, distribution.second))
    made = [_figure(title, charts.histogram(title, edges, list(zip(colours, counts, strict=True)),
                                            label))]  # fmt: skip
    if feature.changes:
        kind = "Euclidean distance" if feature.kind == "embedding" else f"{second} minus {first}"
        values, shares = zip(*feature.changes, strict=True)
        line = Points(Series(kind, "change"), values, shares)
        title = f"{kind}: share of the differing values at or below"
        made.append(_figure(title, charts.cumulative(title, [line], f"{kind}{unit}")))
    return made


def _figure(caption: str, chart: Markup) -> Markup:
    return element("figure", element("figcaption", caption), chart)


def _counts(comparison: Comparison, feature: FeatureDiff) -> Markup:
    """The figures of the distribution's chart, as a table that opens."""
    distribution = feature.distribution
    if not distribution.first:
        return Markup("")
    if feature.kind == "text":
        names, (first, second) = _categories(feature)
    else:
        edges, (first, second) = _drawn_bins(
            distribution.edges, (distribution.first, distribution.second)
        )
        names = charts.bin_names(edges)
    totals = sum(first) or 1, sum(second) or 1
    rows = [
        (name, f"{a:,}", share(a / totals[0]), f"{b:,}", share(b / totals[1]))
        for name, a, b in zip(names, first, second, strict=True)
    ]
    versions = f"v{comparison.first}", f"v{comparison.second}"
    first_column = "Category" if feature.kind == "text" else "Bin"
    columns = (
        first_column,
        *(f"{version} {what}" for version in versions for what in ("rows", "share")),
    )
    caption = f"Rows of {feature.name} by {columns[0].lower()}"
    return element(
        "details", element("summary", caption), table(caption, columns, rows, numeric=(1, 2, 3, 4))
    )


def _categories(feature: FeatureDiff) -> tuple[list[str], tuple[list[int], list[int]]]:
    """Names and rows, with what has no name of its own as a last category."""
    distribution = feature.distribution
    names, first, second = (
        list(distribution.names), list(distribution.first), list(distribution.second)
    )  # fmt: skip
    more_first, more_second, number_of = distribution.other
    if number_of:
        names.append(f"{number_of:,} other categories")
        first.append(more_first)
        second.append(more_second)
    return names, (first, second)


def _drawn_bins(
    edges: tuple[float, ...], counts: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[tuple[float, ...], tuple[list[int], list[int]]]:
    """Without the outermost bins where both are empty: the first version's own range ends there."""
    first, second = (list(side) for side in counts)
    if len(edges) > 1 and not first[0] and not second[0]:
        edges, first, second = edges[1:], first[1:], second[1:]
    if len(edges) > 1 and not first[-1] and not second[-1]:
        edges, first, second = edges[:-1], first[:-1], second[:-1]
    return edges, (first, second)


def _glossary() -> Markup:
    psi, js = DISTRIBUTION_FLOORS["psi"], DISTRIBUTION_FLOORS["js"]
    terms = {
        "Values that differ": "Pairs of an entity and an instant for which the versions give "
        "different values; a null differs from every value.",
        "PSI": "Population stability index: how far the two distributions are apart, over bins "
        f"near quantiles of the first version. 0 is equal; from {psi.warning:g} on it is a "
        f"warning, from {psi.critical:g} on critical: a model trained on the first version would "
        "see inputs that it does not know, so train again before promoting.",
        "JS distance": "Jensen-Shannon distance of the shares of categories, 0 (equal) to 1 "
        f"(nothing in common); a warning from {js.warning:g}, critical from {js.critical:g} on.",
        "Rank correlation": "Spearman's: 1 if the order of entities stays, 0 if the new order has "
        "nothing to do with the old one, -1 if it is reversed.",
        "Top tenth kept": "If entities were ranked by this feature alone: the share of the first "
        "tenth that stays in the first tenth. Ties at its border share the places left.",
        "Bins": "Drawn equally wide and near quantiles of the first version, with bins of their "
        "own for the tails (1 %, 5 %, 95 %, 99 %), so that rare values are not hidden.",
        "Declared default": "What an entity without history has. More defaults than before often "
        "mean that the new version looks back less far.",
    }
    return element(
        "dl",
        *(
            Markup("").join((element("dt", term), element("dd", meaning)))
            for term, meaning in terms.items()
        ),
    )
