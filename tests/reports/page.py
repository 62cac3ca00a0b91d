"""A page as a browser and a screen reader find it."""

from html.parser import HTMLParser

VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a page would fetch, and what of it is not closed, titled or headed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.wrong: list[str] = []
        self.words: list[str] = []
        self._children: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        for name in ("src", "href", "srcset", "action", "data"):
            if held.get(name):
                self.fetched.append(str(held[name]))
        if tag in ("script", "link", "iframe", "img", "object", "embed", "form"):
            self.fetched.append(tag)
        self.wrong += [f"{tag} {name}" for name in held if name.startswith("on")]
        self.tags.append(tag)
        if self._children:
            self._children[-1].append(tag)
        if tag == "th" and held.get("scope") not in ("col", "row"):
            self.wrong.append("th without scope")
        if tag == "svg" and held.get("role") != "img":
            self.wrong.append("svg without role")
        if tag not in VOID:
            self.open.append(tag)
            self._children.append([])

    def handle_endtag(self, tag: str) -> None:
        opened, children = self.open.pop(), self._children.pop()
        if opened != tag:
            self.wrong.append(f"{opened} closed by {tag}")
        if tag == "svg" and children[:2] != ["title", "desc"]:
            self.wrong.append("svg without title and desc")
        if tag == "table" and children[:1] != ["caption"]:
            self.wrong.append("table without caption")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
