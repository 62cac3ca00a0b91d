"""SQL as PostgreSQL's scanner sees it: two texts are one if only layout and comments differ.

A parser would do more than is wanted: what it rewrites changes with its version, and every
published text would then seem to be edited. The scanner's rules have not changed in decades.
"""

import re

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
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None  # the last alternative takes any character
        at = match.end()
        if match["comment"]:
            at = _after_comment(text, at)
        elif match["literal"]:
            tokens.append(match["literal"])
        elif not match["gap"]:
            tokens.append(match[0].lower())
    while tokens and tokens[-1] == ";":
        tokens.pop()
    return " ".join(tokens)


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
