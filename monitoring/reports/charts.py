"""Small SVG drawings for the report: bars over bars, and lines over time. No scripts, no fonts."""

from collections.abc import Sequence
from html import escape

from extensions.versions.diff_report import bar

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 130, 8, 22


def bars(names: Sequence[str], baseline: Sequence[float], live: Sequence[float]) -> str:
    """Two series of shares: the baseline as grey bars, the live one as narrow bars before them."""
    if not names:
        return ""
    top = max([*baseline, *live, 1e-9])
    step = (WIDTH - 2 * LEFT) / len(names)
    parts = []
    for place, (name, was, now) in enumerate(zip(names, baseline, live, strict=True)):
        x = LEFT + place * step
        for share, width, kind in ((was, 0.8, "was"), (now, 0.4, "now")):
            height = (HEIGHT - BOTTOM - 6) * share / top
            corner = (x + step * (1 - width) / 2, HEIGHT - BOTTOM - height)
            tip = f"{name}: {_kind(kind)} {share:.2%}"
            parts.append(bar(corner, (step * width, height), f'class="{kind}"', tip))
        if len(names) <= 12:
            parts.append(
                f'<text x="{x + step / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
                f"{escape(name[:9])}</text>"
            )
    return _svg(parts, "distribution in the training set and live")


def line(values: Sequence[float | None], warning: float, critical: float) -> str:
    """One statistic over the last windows (None: not measured), with its two floors."""
    held = [one for one in values if one is not None]
    if not held:
        return ""
    top = max([*held, warning * 1.3]) or 1.0
    step = (WIDTH - 2 * LEFT) / max(1, len(values) - 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 6) * min(value / top, 1.0)

    parts = [
        f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{y(floor):.1f}" '
        f'y2="{y(floor):.1f}"/>'
        for floor, kind in ((warning, "warning"), (critical, "critical"))
        if floor <= top
    ]
    points = [
        (LEFT + place * step, y(value)) for place, value in enumerate(values) if value is not None
    ]
    parts.append(
        '<polyline class="line" points="' + " ".join(f"{a:.1f},{b:.1f}" for a, b in points) + '"/>'
    )
    parts += [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in points[-1:]]
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">older</text>')
    parts.append(f'<text x="{WIDTH - LEFT}" y="{HEIGHT - 8}" text-anchor="end">now</text>')
    return _svg(parts, "the statistic over the last windows, against its floors")


def strip(verdicts: Sequence[tuple[str, str]]) -> str:
    """One box per window, coloured by verdict; ``(verdict, when)``."""
    boxes = [
        bar((LEFT + place * 12, 2), (10, 14), f'class="{verdict}"', f"{when}: {verdict}")
        for place, (verdict, when) in enumerate(verdicts)
    ]
    width = 2 * LEFT + 12 * len(verdicts)
    return f'<svg viewBox="0 0 {width} 18" width="{width}" height="18" role="img">' + (
        "<title>verdicts of the last windows</title>" + "".join(boxes) + "</svg>"
    )


def _svg(parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _kind(kind: str) -> str:
    return "training set" if kind == "was" else "live"
