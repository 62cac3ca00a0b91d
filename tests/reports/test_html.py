"""Parts of reports: escaping, tables and diffs for screen readers, numbers, scales, charts."""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from extensions.reports import charts
from extensions.reports import theme as theme_module
from extensions.reports.axes import linear_scale, nice_ticks, scale_for, spaced_labels
from extensions.reports.charts import FloorLine, Points, Series
from extensions.reports.html import code_spans, document, element, legend, table, text_diff
from extensions.reports.numbers import chance, number, share, signed, statistic
from tests.reports.page import Page

HOSTILE = "<script>alert('x')</script>&\"'"
FIRST, SECOND = Series("v1", "first"), Series("v2", "second")


def test_text_is_never_markup() -> None:
    parts = [
        element("p", HOSTILE, title=HOSTILE),
        table(HOSTILE, [HOSTILE, "b"], [(HOSTILE, HOSTILE)]),
        text_diff(HOSTILE, HOSTILE + "2", (HOSTILE, "v2")),
        legend({"first": HOSTILE}),
        code_spans(f"a `{HOSTILE}` b"),
        charts.categories(HOSTILE, [HOSTILE], [(FIRST, [1]), (Series(HOSTILE, "second"), [2])]),
        charts.histogram(HOSTILE, [1.0], [(FIRST, [1, 2])], HOSTILE),
        charts.strip(HOSTILE, [("ok", HOSTILE)]),
    ]
    page = Page(document(HOSTILE, *parts))
    assert (page.open, page.wrong, page.fetched) == ([], [], [])
    assert page.text.count("alert('x')") >= 8


def test_a_diff_is_read_without_colours() -> None:
    made = text_diff("select 1\nfrom a", "select 2\nfrom a", ("v1", "v2"))
    page = Page(document("diff", made))
    assert (page.tags.count("ins"), page.tags.count("del")) == (1, 1)
    assert "-select 1" in page.words
    assert "+select 2" in page.words
    # A comment of SQL that goes is no header.
    page = Page(document("diff", text_diff("-- old\nselect 1", "-- new\nselect 1", ("v1", "v2"))))
    assert (page.tags.count("ins"), page.tags.count("del")) == (1, 1)
    assert "equal" in text_diff("a", "a", ("v1", "v2"))


def test_the_page_knows_both_themes_paper_and_small_screens() -> None:
    page = document("t")
    for rule in (
        "@media (prefers-color-scheme:dark)", "@media print", "@media (max-width:36rem)",
        'name="viewport"', 'name="color-scheme" content="light dark"', '<html lang="en">',
    ):  # fmt: skip
        assert rule in page
    assert "url(" not in page
    assert "@import" not in page


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["_LIGHT", "_DARK"])
def test_text_can_be_read_in_both_themes(theme: str) -> None:
    """WCAG 2: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    declared = "".join(getattr(theme_module, theme).split()).strip(";").split(";")
    colours = dict(part.removeprefix("--").split(":") for part in declared)

    def contrast(one: str, other: str) -> float:
        lights = sorted(_luminance(colours[name]) for name in (one, other))
        return (lights[1] + 0.05) / (lights[0] + 0.05)

    for name in ("text", "muted", "link", "warning", "critical"):
        assert contrast(name, "background") >= 4.5, name
    for name in ("added", "removed", "panel"):
        assert contrast("text", name) >= 4.5, name
        assert contrast("muted", "panel") >= 4.5, name
    for name in ("ok", "warning", "critical", "error", "quiet"):
        assert contrast("badge", name) >= 4.5, name
    for name in ("first", "second", "change", "ok", "quiet"):
        assert contrast(name, "background") >= 3, name


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1,234"), (0.05231, "0.05231"), (-3.10, "-3.1"), (1.234e-7, "1.23e-07"),
     (100, "100"), (99999.6, "100,000"), (None, "–"), (math.nan, "–"), (math.inf, "∞")],
)  # fmt: skip
def test_numbers_have_few_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_shares_and_chances_are_not_rounded_to_nothing() -> None:
    assert [share(v) for v in (0.0, 0.5, 0.12345, 0.00001, 0.99999, 1.0)] == [
        "0 %", "50 %", "12.3 %", "< 0.01 %", "> 99.99 %", "100 %",
    ]  # fmt: skip
    assert [chance(p) for p in (1.0, 0.42, 0.01, 1 / 2300, 1e-30, 0.0)] == [
        "no evidence", "42 %", "1 in 100", "1 in 2,300", *["less than 1 in a million"] * 2,
    ]  # fmt: skip
    assert [statistic(v) for v in (0.0, 1e-9, 0.1234, 0.99999, 1.0, 7.0)] == [
        "0", "< 0.001", "0.123", "> 0.999", "1", "7",
    ]  # fmt: skip
    assert (signed(2.0), signed(-2.0), signed(0.0)) == ("+2", "-2", "0")


def test_ticks_cover_the_range() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(0, 37) == [0, 10, 20, 30, 40]
    assert nice_ticks(3, 3) == [3]
    scale = linear_scale(0, 10, 100, 0)
    assert (scale(0), scale(10), scale(5)) == (100, 0, 50)


def test_a_long_tail_is_drawn_on_a_logarithmic_scale() -> None:
    even = scale_for([float(x) for x in range(100)], 0, 100)
    assert even.threshold is None
    tail = scale_for([0.1 * x for x in range(1, 1000)] + [1e6, -1e6], 0, 100)
    assert tail.threshold is not None
    assert "logarithmic" in tail.note
    places = [tail(x) for x in (-1e6, -10.0, 0.0, 0.5, 10.0, 1e6)]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] == pytest.approx(100)
    # Linearly the middle of the values would be one dot.
    assert tail(100.0) - tail(0.1) > 10
    assert 0.0 in tail.ticks
    assert len(tail.ticks) <= 10


def test_labels_do_not_overlap() -> None:
    places = [float(x) for x in range(0, 400, 20)]
    labels = ["12345"] * len(places)
    chosen = spaced_labels(places, labels, 7, 440)
    assert len(chosen) > 3
    gaps = [places[b] - places[a] for a, b in pairwise(chosen)]
    assert min(gaps) >= 5 * 7


def test_every_category_drawn_is_named_with_its_share() -> None:
    names = [f"category {i}" for i in range(16)]
    made = Page(charts.categories("c", names, [(FIRST, range(16)), (SECOND, range(16))]))
    assert [word for word in made.words if word in names] == names
    assert sum(word.endswith(" %") and word[0].isdigit() for word in made.words) == 32


def test_charts_have_axes_with_ticks_and_units() -> None:
    made = charts.histogram(
        "h", [1.0, 10.0], [(FIRST, [5, 3, 2]), (SECOND, [0, 0, 10])], "score, min"
    )
    page = Page(made)
    assert {"1", "10", "score, min", "0 %", "100 %"} <= set(page.words)
    assert charts.bin_names([1.0, 10.0]) == ["below 1", "1 to 10", "10 and above"]
    line = Points(SECOND, [-5.0, 0.0, 20.0], [0.25, 0.5, 1.0])
    page = Page(charts.cumulative("c", [line], "change, min"))
    assert {"0 %", "50 %", "100 %", "change, min", "0", "20"} <= set(page.words)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(hours=hour) for hour in range(4)]
    floors = [FloorLine(0.1, "warning"), FloorLine(0.2, "critical")]
    page = Page(charts.time_line("t", times, [0.05, None, 0.3, 0.1], floors, share))
    assert {"warning", "critical", "00:00", "03:00"} <= set(page.words)
    assert "the last one: 10 %" in page.text
    for made_page in (page, Page(made)):
        assert made_page.wrong == []
