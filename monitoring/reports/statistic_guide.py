"""What each statistic of a drift check means in plain words, its unit, and what to do about it."""

from dataclasses import dataclass

from extensions.reports.numbers import share, statistic


@dataclass(frozen=True)
class Guide:
    """One statistic for a reader of the report.

    ``unit``: ``share`` (of rows, in per cent) or ``number``. ``meaning``: what the effect is;
    ``action``: what to look at first when it is above its floor.
    """

    title: str
    unit: str
    meaning: str
    action: str

    def effect(self, value: float) -> str:
        """An effect or a floor as people read it."""
        return share(value) if self.unit == "share" else statistic(value)


GUIDES = {
    "psi": Guide(
        "shape of the distribution (PSI)", "number",
        "Population stability index: how far the live shares of rows by bin are from the training "
        "set's. 0 is equal; 0.1 is a small change, 0.2 a large one.",
        "Compare the bars: which range gained or lost rows?",
    ),
    "mean": Guide(
        "level (mean)", "share",
        "Shift of the mean, relative to the training set's mean or half its standard deviation, "
        "whichever is larger.",
        "A unit, a scale or the population has changed: look at the source's latest change.",
    ),
    "sd": Guide(
        "spread (standard deviation)", "share",
        "Change of the standard deviation, relative to the training set's.",
        "Values were cut off, or a source was mixed in: look at the least and greatest values.",
    ),
    "outside": Guide(
        "values beyond the training range", "share",
        "Share of live values below the least or above the greatest value of the training set.",
        "A unit, an overflow or a new source: look at some of these values.",
    ),
    "js": Guide(
        "mix of categories (Jensen-Shannon)", "number",
        "Jensen-Shannon distance of the shares of categories: 0 is equal, 1 nothing in common.",
        "A catalogue or a classifier has changed: compare the bars.",
    ),
    "unseen": Guide(
        "new categories", "share",
        "Share of live rows with a category that the training set does not have, beyond what "
        "chance explains.",
        "The model never saw them: look at the source's latest import, and train again.",
    ),
    "nulls": Guide(
        "missing values", "share",
        "Change of the share of nulls (and of what is no finite number), in points.",
        "Look at the computation and at the completeness of its sources.",
    ),
    "defaults": Guide(
        "entities without a row", "share",
        "Change of the share of requested entities that have no row and get the declared "
        "defaults, in points.",
        "Look at the refresh of the view (skewless status), and at who sends unknown ids.",
    ),
    "stale": Guide(
        "stale values", "share",
        "Share of served values that were older than the view's freshness budget.",
        "The pipeline lags: skewless status, then skewless refresh --due.",
    ),
    "dimension_mean": Guide(
        "embedding: a dimension's mean", "number",
        "The largest shift of a dimension's mean, in standard deviations of the training set.",
        "Another model or encoder made the vectors: look at its version.",
    ),
    "dimension_sd": Guide(
        "embedding: a dimension's spread", "number",
        "The largest change of a dimension's standard deviation, as |ln(ratio)|.",
        "A dimension died or grew: look at the encoder's output.",
    ),
    "anchors": Guide(
        "embedding: known entities' vectors", "number",
        "1 - the median cosine between known entities' vectors now and in the training set: 0 is "
        "the same direction, 1 unrelated.",
        "The embedding space was replaced: models trained on the old one cannot read it.",
    ),
    "volume": Guide(
        "requests", "share",
        "Share of the usual number of requests, at this hour of other days, that is missing.",
        "Requests did not come, or were not logged: look at the callers and at the served log.",
    ),
    "schema": Guide(
        "feature in the served log", "number",
        "1: a feature of the baseline is not in the served log.",
        "It left the service or changed its type: take a new baseline, or restore it.",
    ),
    "rows": Guide(
        "rows to compare", "number",
        "How many rows the window has; too few say nothing about a distribution.",
        "Wait for more requests, or use a longer window.",
    ),
}  # fmt: skip


def guide_of(statistic: str) -> Guide:
    """The guide of a statistic; of one that this release does not know, its bare name."""
    return GUIDES.get(statistic, Guide(statistic, "number", "", ""))
