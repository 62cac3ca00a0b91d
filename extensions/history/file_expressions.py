"""`--map` and `--where`: a user's SQL over a file's columns, run by DuckDB in a sandbox.

DuckDB sees the file's rows as an Arrow table and nothing else: no file system, no network, no
extensions, no settings, no variables of this program. An expression is one expression: no
statement, no subquery, nothing that looks at several rows.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from extensions.engines.sandbox import open_sandbox
from extensions.errors import InputError

Mask = npt.NDArray[np.bool_]

# A whole number that is no code with a leading zero, a number, a time; as DuckDB casts them.
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
_NUMBER = r"^-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_COMMA = r"^-?[0-9]+(,[0-9]+)?$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?)?$"
_ZONED = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"
    r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
)
_KINDS = (
    (_WHOLE, "BIGINT"),
    (_NUMBER, "DOUBLE"),
    (_TIME, "TIMESTAMP"),
    (_ZONED, "TIMESTAMPTZ"),
    (_COMMA, "COMMA"),
)
_REFUSED_NODES = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window, whose result would depend on where the file is cut",
    "PARAMETER": "a parameter",
    "STAR": "a star",
}


def sandbox() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that reaches no file, no network, no extension and no variable."""
    return open_sandbox(_prepare)


def _prepare(conn: duckdb.DuckDBPyConnection) -> None:
    conn.execute("SET TimeZone = 'UTC'")
    conn.execute("SET preserve_insertion_order = true")


@dataclass(frozen=True)
class Evaluated:
    """The expressions' values for a batch.

    ``kept``: the rows for which ``--where`` is true. ``values``: by expression, an array of the
    batch's length. ``failed``: by expression, where it raised.
    """

    kept: Mask
    values: Mapping[str, pa.Array]
    failed: Mapping[str, Mask]


class FileExpressions:
    """Expressions over the columns of one file.

    Args:
        what: Names the file in messages.
        columns: The file's columns; those of which there are several of one name (in any case of
            its letters) cannot be used.
        expressions: SQL by the name of what it is for.
        where: A condition, or None.
        decimal_comma: Whether a text such as ``1,5`` is a number.
    """

    def __init__(
        self,
        what: str,
        columns: Sequence[str],
        expressions: Mapping[str, str],
        where: str | None = None,
        *,
        decimal_comma: bool = False,
    ) -> None:
        self._what, self._columns = what, columns
        self._comma = decimal_comma
        self._named = dict(expressions) | ({} if where is None else {_WHERE: where})
        self._where = where
        # By what the columns look like, since a later batch may show what the first did not.
        self._queries: dict[tuple[str, ...], str] = {}
        self._compares: dict[str, bool] = {}
        self._used: dict[str, set[str]] = {}
        self._is_text: list[bool] = []
        for name, text in self._named.items():
            parsed = _check(_option(name), text, self._conn)
            self._compares[name] = _compares(parsed)
            self._used[name] = {each.lower() for each in _names(parsed)}

    @cached_property
    def _conn(self) -> duckdb.DuckDBPyConnection:
        """Opened where there are expressions: most imports have none."""
        return sandbox()

    def evaluate(self, batch: pa.RecordBatch) -> Evaluated:
        """The values for a batch of the file.

        Raises:
            InputError: an expression has no meaning for these columns.
        """
        count = batch.num_rows
        if not self._named:
            return Evaluated(np.ones(count, bool), {}, {})
        arrays = [_registrable(column) for column in batch.columns]
        data = pa.Table.from_arrays(
            [*arrays, pa.array(np.arange(count))],
            names=[*(f"c{n}" for n in range(len(arrays))), "skewless_place"],
        )
        self._conn.register("skewless_batch", data)
        try:
            found = self._conn.sql(self._bound(data)).to_arrow_table()
        except duckdb.Error as error:
            raise self._refusal(error) from error
        if found.num_rows != count:
            raise InputError(f"An expression of {self._what} gives no single value for each row.")
        values, failed = {}, {}
        kept = np.ones(count, bool)
        for place, name in enumerate(self._named):
            value = _one_array(found.column(f"v{place}"))
            broke = _one_array(found.column(f"e{place}")).to_numpy(zero_copy_only=False)
            if name == _WHERE:
                # A condition that fails for a row does not leave it out: the row is rejected.
                kept = pc.fill_null(value, False).to_numpy(zero_copy_only=False) | broke
                failed[name] = broke
            else:
                values[name], failed[name] = value, broke
        return Evaluated(kept, values, failed)

    def _bound(self, data: pa.Table) -> str:
        """The query by which all expressions have a meaning.

        Columns of text are texts, or what their values look like: numbers and times. An expression
        that compares (10 is more than 9, but not as a text) sees the latter first, any other one
        texts; and what has no meaning so, columns of which most values look like numbers or times.
        """
        used = set().union(*self._used.values())
        self._is_text = [pa.types.is_string(data.column(n).type) for n in range(len(self._columns))]
        kinds = [
            _looks_like(data.column(n), comma=self._comma) if name.lower() in used else ("", "")
            for n, name in enumerate(self._columns)
        ]
        key = tuple(word for pair in kinds for word in pair)
        if key in self._queries:
            return self._queries[key]
        texts = [("", "")] * len(self._columns)
        typed = [(kind, kind) for kind, _ in kinds]
        parts = []
        for place, (name, text) in enumerate(self._named.items()):
            error: duckdb.Error | None = None
            orders = (typed, kinds, texts) if self._compares[name] else (texts, typed, kinds)
            for tried in orders:
                query = self._select(place, name, text, [kind for _, kind in tried])
                try:
                    self._conn.execute(f"EXPLAIN {query}").fetchall()
                except duckdb.Error as failure:
                    error = error or failure
                else:
                    parts.append(query)
                    break
            else:
                raise self._refusal(error, name)
        joined = " ".join(
            f"INNER JOIN ({query}) AS q{place} USING (skewless_place)"
            for place, query in enumerate(parts)
        )
        taken = ", ".join(f"v{place}, e{place}" for place in range(len(parts)))
        self._queries[key] = (
            f"SELECT {taken} FROM (SELECT skewless_place FROM skewless_batch) AS whole "
            f"{joined} ORDER BY skewless_place"
        )
        return self._queries[key]

    def _select(self, place: int, purpose: str, text: str, kinds: Sequence[str]) -> str:
        """One expression over all rows: ``v``, its value, and ``e``, whether it fails.

        It fails where it raises, or where a column that it takes as a number or time is none.
        """
        names = Counter(name.lower() for name in self._columns)
        view, broken = ["skewless_place"], ["false"]
        for number, (name, kind) in enumerate(zip(self._columns, kinds, strict=True)):
            if names[name.lower()] > 1 or name.lower() == "skewless_place":
                continue
            column = _as(f"c{number}", kind) if self._is_text[number] else f"c{number}"
            view.append(f"{column} AS {_quoted(name)}")
            if kind and name.lower() in self._used[purpose]:
                broken.append(f"(nullif(trim(c{number}), '') IS NOT NULL AND {column} IS NULL)")
        if purpose == _WHERE:
            text = f"CAST((\n{text}\n) AS BOOLEAN)"
        return (
            f"SELECT skewless_place, b.v AS v{place}, b IS NULL AS e{place} FROM ("
            "SELECT skewless_place, CASE WHEN skewless_broken THEN NULL "
            f"ELSE TRY(struct_pack(v := (\n{text}\n))) END AS b FROM ("
            f"SELECT {', '.join(view)}, {' OR '.join(broken)} AS skewless_broken "
            "FROM skewless_batch) AS file) AS tried"
        )

    def _refusal(self, error: duckdb.Error | None, name: str | None = None) -> InputError:
        said = _said(error)
        where = f" of {_option(name)}" if name else ""
        text = f" ({self._named[name]})" if name else ""
        repeated = [
            n for n, times in Counter(c.lower() for c in self._columns).items() if times > 1
        ]
        if "VARCHAR" in said:
            said += ": a text becomes a number by CAST(x AS DOUBLE), or by TRY_CAST a null"
        hint = (
            f" {self._what} has several columns called {', '.join(repeated)}: rename all but one."
            if repeated
            else ""
        )
        return InputError(
            f"The expression{where}{text} cannot be computed from {self._what}: {said}. "
            f"Its columns are {', '.join(self._columns)}.{hint}"
        )


def columns_of(text: str) -> set[str]:
    """The names of the columns that an expression takes.

    Raises:
        InputError: it is no expression over a row.
    """
    return _names(_check("The tag import", text, sandbox()))


_WHERE = "--where"


def _option(name: str) -> str:
    return name if name == _WHERE else f"--map {name}"


def _names(node: Any) -> set[str]:
    if isinstance(node, Mapping):
        if node.get("class") == "COLUMN_REF":
            return {str(node["column_names"][-1])}
        node = list(node.values())
    return set().union(*map(_names, node)) if isinstance(node, list) else set()


def _check(option: str, text: str, conn: duckdb.DuckDBPyConnection) -> Any:
    """The parsed expression; refuses what is not one expression over one row."""
    parsed: Any = json.loads(
        conn.execute("SELECT json_serialize_sql(?)", [f"SELECT {text}\n"]).fetchall()[0][0]
    )
    if parsed.get("error"):
        said = str(parsed.get("error_message", "")).splitlines()[0]
        raise InputError(
            f"{option} takes one SQL expression, not {text!r} ({said}). A column whose name is "
            'no plain word, or is one of SQL\'s own, is written in double quotes: "at".'
        )
    statements = parsed["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    simple = (
        node.get("type") == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not (node.get("where_clause") or node.get("having") or node.get("modifiers"))
        and not (node.get("group_expressions") or node.get("qualify") or node.get("sample"))
        and not node["cte_map"]["map"]
    )
    if not simple:
        raise InputError(f"{option} takes one SQL expression over a row, not {text!r}.")
    if found := _refused(node["select_list"]):
        raise InputError(f"{option} cannot use {found}: {text!r}.")
    return node["select_list"]


def _refused(node: Any) -> str | None:
    """What a parsed expression holds that an import does not run."""
    if isinstance(node, Mapping):
        kind = str(node.get("class", ""))
        if kind in _REFUSED_NODES:
            return _REFUSED_NODES[kind]
        node = list(node.values())
    if isinstance(node, list):
        return next(filter(None, map(_refused, node)), None)
    return None


def _compares(node: Any) -> bool:
    """Does an expression compare values, of which texts have another order than numbers?"""
    if isinstance(node, Mapping):
        if node.get("class") in ("COMPARISON", "BETWEEN"):
            return True
        if node.get("function_name") in ("greatest", "least"):
            return True
        node = list(node.values())
    return isinstance(node, list) and any(map(_compares, node))


def _looks_like(column: pa.ChunkedArray, *, comma: bool) -> tuple[str, str]:
    """What all of a column's texts, and what most of them are: a type, or nothing for text."""
    if not pa.types.is_string(column.type):
        return "", ""
    texts = pc.utf8_trim_whitespace(column.drop_null())
    texts = texts.filter(pc.not_equal(texts, ""))
    mostly, most = "", len(texts) // 2
    for pattern, kind in _KINDS:
        if not len(texts) or (kind == "COMMA" and not comma):
            continue
        matching = pc.sum(pc.match_substring_regex(texts, pattern)).as_py()
        if matching == len(texts):
            return kind, kind
        if matching > most:
            mostly, most = kind, matching
    return "", mostly


def _as(name: str, kind: str) -> str:
    """A column of texts as SQL of a type, null where a text is of no value of it."""
    text = f"nullif(trim({name}), '')"
    if not kind:
        return name
    if kind == "COMMA":
        return f"TRY_CAST(replace({text}, ',', '.') AS DOUBLE)"
    if kind == "BIGINT":  # DuckDB's own cast rounds what is no whole number
        return (
            f"CASE WHEN regexp_full_match({text}, '-?[0-9]+') THEN TRY_CAST({text} AS BIGINT) END"
        )
    return f"TRY_CAST({text} AS {kind})"


def _registrable(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _said(error: duckdb.Error | None) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", lines[0])[:200].rstrip(".") if lines else "?"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
