"""Warnings of constructs that DuckDB runs with another result than PostgreSQL, or cannot run.

A text is read as PostgreSQL's scanner reads it (`sql_normalization.scan`), without a parser: what
counts are names of functions, casts, operators and literals. So it warns and never refuses; the
verdict is that of the two engines (`portability`).

`python -m extensions.engines.construct_lint FOLDER…` warns of all computations in repositories.
"""

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from extensions.asof.sql_normalization import scan


@dataclass(frozen=True)
class Finding:
    """A construct in a text.

    Attributes:
        construct: What it is called.
        line: Where, from 1.
        differs: What the engines do with it.
        instead: The portable way to write it.
    """

    construct: str
    line: int
    differs: str
    instead: str

    @property
    def told(self) -> str:
        """What differs, and what to write instead."""
        return f"{self.construct} {self.differs}; {self.instead}"

    def sentence(self, file: str) -> str:
        """The finding for a user, with the file that it is in."""
        return f"{file}, line {self.line}: {self.told}."


_OTHER_DIGITS = "has other last digits in DuckDB"
_TWO_PASSES = (
    "write it as two passes in a named order: the mean, then "
    "the root of sum(square ORDER BY time, id) / (n - 1) (a declared stddev is compiled so)"
)
_WHOLE = "write floor(x + 0.5), of a double"
# By the name of a function: what differs, and what to write.
_FUNCTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("stddev", "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop"),
        (_OTHER_DIGITS, _TWO_PASSES),
    ),
    **dict.fromkeys(
        ("corr", "covar_pop", "covar_samp"),
        (_OTHER_DIGITS, "write it with sums of doubles in a named order"),
    ),
    "percentile_cont": (
        "interpolates with another last bit in DuckDB",
        "take percentile_disc, or array_agg(x ORDER BY x) and its element",
    ),
    "round": ("rounds halves otherwise in DuckDB", _WHOLE),
    "array_length": (
        "of an empty array is null in PostgreSQL and 0 in DuckDB",
        "write cardinality(a), which is 0 in both",
    ),
    **dict.fromkeys(
        ("lower", "upper"),
        (
            "knows letters beyond ASCII by the database's locale in PostgreSQL, always in DuckDB",
            "write the case when the row is stored, or compare texts as they are",
        ),
    ),
    **dict.fromkeys(
        ("substring", "substr"),
        (
            "counts a negative start from the end in DuckDB",
            "begin at 1 or later, or take right(text, n)",
        ),
    ),
    "to_hex": ("writes capital letters in DuckDB", "leave the number as it is"),
    "format": (
        "does not know %s in DuckDB",
        "put texts together with ||",
    ),
    "initcap": ("is not in DuckDB", "write the case when the row is stored"),
    "make_interval": (
        "takes no names in DuckDB",
        "multiply: n * interval '1 day'",
    ),
}
_REGR = re.compile(r"regr_\w+")
_JSON_OPERATORS = frozenset({"#>>", "#>", "?", "?|", "?&"})
_JSON_TYPES = frozenset({"json", "jsonb"})
_ARRAY_TEXT = re.compile(r"'\{.*\}'", re.DOTALL)
# What makes a numeric of a number, so that casting or dividing it rounds otherwise.
_EXACT = frozenset({"numeric", "decimal"})
_DOUBLES = frozenset({"double", "float8", "numeric", "decimal", "bigint", "integer", "int"})

# (kind, part, line), without gaps and comments.
Token = tuple[str, str, int]


def findings(text: str, reals: Collection[str] = ()) -> list[Finding]:
    """The constructs in a text that are known to differ, in its order.

    Args:
        text: A computation's SQL.
        reals: Names of columns of type real of the tables that it reads: their sum is a real in
            PostgreSQL and a double in DuckDB.
    """
    tokens = list(_tokens(text))
    found = [each for place in range(len(tokens)) for each in _at(tokens, place, frozenset(reals))]
    return list({(each.construct, each.line): each for each in found}.values())


def _tokens(text: str) -> Iterator[Token]:
    line = 1
    for kind, part in scan(text):
        if kind not in ("gap", "comment"):
            yield kind, part.lower() if kind == "word" else part, line
        line += part.count("\n")


def _at(tokens: Sequence[Token], place: int, reals: frozenset[str]) -> Iterator[Finding]:
    kind, part, line = tokens[place]
    following = [token[1] for token in tokens[place + 1 : place + 4]]
    if kind == "word" and following[:1] == ["("]:
        yield from _call(tokens, place, reals)
    if kind == "word" and part == "similar" and following[:1] == ["to"]:
        yield Finding("SIMILAR TO", line, "matches otherwise in DuckDB", "write LIKE, or = ANY")
    if kind == "word" and part in _EXACT:
        yield Finding(
            part, line, "is divided and rounded otherwise in DuckDB, and has 38 digits at most",
            "cast to double precision before dividing or averaging, and count in whole units",
        )  # fmt: skip
    if part == "::" and following[:1] and following[0] in _JSON_TYPES:
        yield Finding(
            f"::{following[0]}", line, "is another type in DuckDB",
            "give the table a generated column for what is needed of the document",
        )  # fmt: skip
    if kind == "operator" and part in _JSON_OPERATORS:
        yield Finding(
            part, line, "is no operator of DuckDB",
            "give the table a generated column for what is needed of the document",
        )  # fmt: skip
    if _ARRAY_TEXT.fullmatch(part) and following[:1] == ["::"] and following[2:] == ["["]:
        yield Finding(
            f"{part}::{following[1]}[]", line, "cannot be read by DuckDB",
            f"write ARRAY[]::{following[1]}[] with its elements",
        )  # fmt: skip


def _call(tokens: Sequence[Token], place: int, reals: frozenset[str]) -> Iterator[Finding]:
    _, function, line = tokens[place]
    inside = list(_arguments(tokens, place + 1))
    words = [part for kind, part, _ in inside if kind == "word"]
    if function == "sum":
        names = reals.intersection(words)
        if names and not _DOUBLES.intersection(words):
            name = min(names)
            yield Finding(
                f"{function}({name})", line,
                "of a real is a real in PostgreSQL and a double in DuckDB",
                f"write {function}({name}::double precision ORDER BY time, id), and ::real around "
                "it where wanted",
            )  # fmt: skip
    elif function in ("substring", "substr"):
        if any(part == "-" for _, part, _ in inside):
            yield Finding(f"{function}()", line, *_FUNCTIONS[function])
    elif function in _FUNCTIONS:
        yield Finding(f"{function}()", line, *_FUNCTIONS[function])
    elif _REGR.fullmatch(function):
        yield Finding(f"{function}()", line, *_FUNCTIONS["corr"])


def _arguments(tokens: Sequence[Token], opening: int) -> Iterator[Token]:
    """What stands between an opening bracket and its closing one."""
    depth = 0
    for token in tokens[opening:]:
        depth += (token[1] == "(") - (token[1] == ")")
        if depth == 0:
            return
        yield token


def warnings_in(repository: Path) -> Iterator[str]:
    """A sentence for each finding in the computations below a folder."""
    for path in sorted(repository.rglob("computations/*.sql")):
        for found in findings(path.read_text()):
            yield found.sentence(path.as_posix())


def main() -> int:
    """Print the warnings of repositories; exit code 1 if there are any."""
    told = [each for folder in sys.argv[1:] for each in warnings_in(Path(folder))]
    print(*told, sep="\n", end="\n" if told else "")  # noqa: T201
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
