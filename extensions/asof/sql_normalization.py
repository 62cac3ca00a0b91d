"""SQL as PostgreSQL's scanner sees it: two texts are one if only layout and comments differ.

A parser would do more than is wanted: what it rewrites changes with its version, and every
published text would then seem to be edited. The scanner's rules have not changed in decades.
"""

import re
from collections.abc import Iterator

# In the order in which PostgreSQL's scanner tries them. `E'…'` knows backslashes, `'…'` does not.
_TOKEN = re.compile(
    r"""
    (?P<gap>\s+|--[^\n]*)
  | (?P<comment>/\*)
  | (?P<literal>[eE]'(?:[^'\\]|\\.|'')*'|(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'
        |(?:[uU]&)?"(?:[^"]|"")*"|\$(?P<tag>[^\W\d]\w*)?\$.*?\$(?P=tag)\$|\$\$.*?\$\$)
  | (?P<word>\w[\w$]*(?:\.\d+)?(?:[eE][+-]?\d+)?)
  | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+|::|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def normalised(text: str) -> str:
    """The tokens of ``text``, one blank between two; words in lower case, literals as they are.

    Comments, line breaks, blanks, the case of words and a final semicolon do not count. Blanks
    inside a literal or a quoted name do.
    """
    tokens = [
        token if kind == "literal" else token.lower()
        for kind, token in scan(text)
        if kind not in ("gap", "comment")
    ]
    while tokens and tokens[-1] == ";":
        tokens.pop()
    return " ".join(tokens)


def scan(text: str) -> Iterator[tuple[str, str]]:
    """The parts of ``text`` as (kind, part); kinds: gap, comment, literal, word, operator.

    A line's comment is a gap that begins with ``--``. A quote that is not closed is an operator.
    """
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None  # the last alternative takes any character
        end = _after_comment(text, match.end()) if match["comment"] else match.end()
        yield _kind(match), text[at:end]
        at = end


def _kind(match: re.Match[str]) -> str:
    kinds = ("gap", "comment", "literal", "word")
    return next((kind for kind in kinds if match[kind]), "operator")


def _after_comment(text: str, at: int) -> int:
    """Where the block comment that is open at ``at`` ends; PostgreSQL's comments nest."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at
