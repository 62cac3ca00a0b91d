"""Parts of an HTML page: document, table, badge, legend, text diff.

Every argument that is not `Markup` is text and gets escaped, as markupsafe does it.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from extensions.reports.theme import STYLE

__all__ = [
    "Markup", "badge", "code_spans", "document", "element", "legend", "table", "text_diff",
]  # fmt: skip

# Lines of context around a change of a text.
CONTEXT = 3


def element(tag: str, *content: Any, **attributes: str | None) -> Markup:
    """``<tag …>content</tag>``.

    Args:
        tag: the element's name.
        content: text, or `Markup` that stays what it is; one after another.
        attributes: by name, ``class_`` for class and ``aria_label`` for aria-label; None: none.
    """
    described = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), value)
        for name, value in attributes.items()
        if value is not None
    )
    return Markup("<{tag}{described}>{content}</{tag}>").format(
        tag=tag, described=described, content=Markup("").join(content)
    )


def document(title: str, *body: Markup) -> str:
    """A page that opens anywhere: its style is inside, it runs nothing and fetches nothing."""
    head = Markup(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
    ) + element("title", title)
    style = element("style", Markup(STYLE))  # noqa: S704 - a constant of ours
    page = element("html", element("head", head, style), element("body", element("main", *body)),
                   lang="en")  # fmt: skip
    return f"<!doctype html>\n{page}\n"


def badge(verdict: str) -> Markup:
    """A verdict as a coloured word."""
    return element("span", verdict, class_=f"badge {verdict}")


def code_spans(sentence: str) -> Markup:
    """A sentence in which what stands between backticks is code."""
    parts = sentence.split("`")
    return Markup("").join(
        element("code", part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def legend(entries: Mapping[str, str]) -> Markup:
    """What each colour means: ``{class: meaning}``."""
    return element(
        "div",
        *(
            element("span", element("span", class_=f"key {kind}"), meaning)
            for kind, meaning in entries.items()
        ),
        class_="legend",
    )


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Sequence[int] = (),
    wide: Sequence[int] = (),
) -> Markup:
    """A table with a caption, and scopes for screen readers; it scrolls where it does not fit.

    Args:
        caption: what the table shows; also the name of its scrolling region.
        columns: the headings.
        rows: cells by row; the first one heads its row.
        numeric: places of the columns that are aligned to the right.
        wide: places of the columns that hold sentences.
    """
    kinds = dict.fromkeys(numeric, "number") | dict.fromkeys(wide, "wide")
    # On a narrow screen a row with sentences becomes a block of lines, each with its heading. Roles
    # are told, since a browser forgets those of table elements that are drawn as blocks.
    stacked = bool(wide)

    def role(name: str) -> str | None:
        return name if stacked else None

    def cell(place: int, value: Any) -> Markup:
        kind, label = kinds.get(place), columns[place] if stacked else None
        if place:
            return element("td", value, class_=kind, role=role("cell"), data_label=label)
        return element("th", value, scope="row", class_=kind, role=role("rowheader"),
                       data_label=label)  # fmt: skip

    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_=kinds.get(place), role=role("columnheader"))
            for place, name in enumerate(columns)
        ),
        role=role("row"),
    )
    body = (
        element("tr", *(cell(place, value) for place, value in enumerate(row)), role=role("row"))
        for row in rows
    )
    made = element(
        "table",
        element("caption", caption),
        element("thead", head, role=role("rowgroup")),
        element("tbody", *body, role=role("rowgroup")),
        class_="stacked" if stacked else None,
        role=role("table"),
    )
    # A region that scrolls must be reachable by keyboard.
    return element("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def text_diff(first: str, second: str, names: tuple[str, str]) -> Markup:
    """The unified diff of two texts; lines keep their sign, so colour is not needed to read it."""
    lines = list(
        difflib.unified_diff(
            first.splitlines(), second.splitlines(), *names, n=CONTEXT, lineterm=""
        )
    )
    if not lines:
        return element("p", "The texts are equal.", class_="muted")
    # Only the first two lines name the texts: a comment of SQL that goes begins with --- as well.
    head = [element("span", line, class_="line hunk") for line in lines[:2]]
    return element("pre", *head, *(_diff_line(line) for line in lines[2:]), class_="diff")


def _diff_line(line: str) -> Markup:
    if line.startswith("@@"):
        return element("span", line, class_="line hunk")
    return element({"+": "ins", "-": "del"}.get(line[:1], "span"), line, class_="line")
