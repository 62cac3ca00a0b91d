"""The report of a difference: one HTML file that opens anywhere, without a network."""

from html import escape
from pathlib import Path
from typing import Any

from extensions.versions.diff import Comparison, FeatureDiff

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #1c2330; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .8rem 0; width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #e3e7ee }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto; background: #fafbfd; border: 1px solid #e3e7ee }
.note { color: #5a6577 }
"""
_FIRST, _SECOND, _CHANGE = "#4a6fa5", "#d98032", "#6b8e5a"
_WIDTH, _HEIGHT, _FOOT = 900, 240, 60


def write_html(found: Comparison, path: Path) -> None:
    """Write the report of ``found`` to ``path``."""
    path.write_text(render(found), encoding="utf-8")


def render(found: Comparison) -> str:
    """The report as HTML; plots are drawn in it, nothing is fetched."""
    title = f"{found.view}: v{found.first} and v{found.second}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        (
            f"<p class='note'>{found.questions:,} pairs of an entity and a moment, "
            f"{len(found.moments)} moments from {found.moments[-1]:%Y-%m-%d %H:%M} to "
            f"{found.moments[0]:%Y-%m-%d %H:%M} UTC. Computed in {found.seconds[0]} s "
            f"(v{found.first}) and {found.seconds[1]} s (v{found.second}).</p>"
        ),
        _table(found.table()),
    ]
    parts += [_feature(found, one) for one in found.features]
    return document(title, _STYLE, "\n".join(parts))


def document(title: str, style: str, body: str) -> str:
    """A page that opens anywhere: its style stands in it, it runs nothing and fetches nothing."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )


def bar(corner: tuple[float, float], size: tuple[float, float], look: str, tip: str) -> str:
    """A rectangle of a drawing; ``look``: its class or fill, ``tip``: what is shown on hovering."""
    (x, y), (width, height) = corner, size
    return (
        f'<rect {look} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(tip)}</title></rect>"
    )


def _feature(found: Comparison, one: FeatureDiff) -> str:
    first, second = f"v{found.first}", f"v{found.second}"
    what = {"embedding": "Norms of both", "number": "Values of both", "text": "Values of both"}
    parts = [
        f"<h2>{escape(one.name)}</h2>",
        (
            f"<p>{one.differing:,} of {found.questions:,} differ ({one.share:.1%}). "
            f"Nulls: {one.first.nulls:,} and {one.second.nulls:,}.</p>"
        ),
        (
            f"<p class='note'>{what[one.kind]}: <b style='color:{_FIRST}'>{first}</b>, "
            f"<b style='color:{_SECOND}'>{second}</b>.</p>"
        ),
        _plot(one.bars, (_FIRST, _SECOND)),
    ]
    if one.kind != "text" and one.change_bars:
        name = "Distances" if one.kind == "embedding" else f"{second} minus {first}"
        parts += [
            f"<p class='note'>{name}, where they differ.</p>",
            _plot(one.change_bars, (_CHANGE, _CHANGE)),
        ]
    if one.largest:
        parts.append("<p class='note'>The largest differences.</p>")
        parts.append(_table([row for row in found.largest_table() if row["feature"] == one.name]))
    return "\n".join(parts)


def _plot(bars: tuple[tuple[str, int, int], ...], colours: tuple[str, str]) -> str:
    """Pairs of bars as SVG, each with its numbers on hovering."""
    most = max((max(a, b) for _, a, b in bars), default=0)
    if not most:
        return "<p class='note'>Nothing to draw.</p>"
    step = _WIDTH / len(bars)
    drawn = []
    for i, (label, a, b) in enumerate(bars):
        for j, (count, colour) in enumerate(zip((a, b), colours, strict=True)):
            height = (_HEIGHT - 10) * count / most
            corner = (i * step + step * (0.12 + 0.38 * j), _HEIGHT - height)
            tip = f"{label}: {count:,}"
            drawn.append(bar(corner, (step * 0.36, height), f'fill="{colour}"', tip))
        if len(bars) <= 10 or i % 2 == 0:
            x = i * step + step / 2
            drawn.append(
                f"<text x='{x:.1f}' y='{_HEIGHT + 14}' font-size='10' fill='#5a6577' "
                f"transform='rotate(28 {x:.1f} {_HEIGHT + 14})'>{escape(label[:24])}</text>"
            )
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT + _FOOT}' role='img'>"
        f"<line x1='0' y1='{_HEIGHT}' x2='{_WIDTH}' y2='{_HEIGHT}' stroke='#b9c1ce'/>"
        f"{''.join(drawn)}</svg>"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
