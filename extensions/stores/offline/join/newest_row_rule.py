"""Which of an entity's rows is the newest, and which were known when: one rule for both sides.

By event time, then by created time; a row without a created time was known as soon as its event
time, and counts as earlier than any that has one; of rows that are equal in both, the greatest by
its text. The training join, materialization and the logs' readers order by these, and Redis keeps
what comes first in them (`extensions/stores/online_codec/write_scripts.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

# By bytes, whatever the database's own collation is.
_TEXT = sql.SQL('l::text COLLATE "C" DESC')


@dataclass(frozen=True)
class RowOrder:
    """The order of a log's rows, which statements call ``l``.

    ``unique``: no two rows of one entity have the same times. ``dated``: no created time is null.
    Where both hold, the order is the log's own index'.
    """

    event: str
    created: str | None
    unique: bool = True
    dated: bool = True

    def newest_first(self) -> list[sql.Composable]:
        """The terms of ORDER BY."""
        terms: list[sql.Composable] = [sql.SQL("{} DESC").format(sql.Identifier("l", self.event))]
        if self.created is not None:
            last = "{} DESC" if self.dated else "{} DESC NULLS LAST"
            terms.append(sql.SQL(last).format(sql.Identifier("l", self.created)))
        return terms if self.unique else [*terms, _TEXT]

    def known_by(self, at: sql.Composable) -> sql.Composed:
        """SQL condition: the row was published by the time ``at``."""
        assert self.created is not None
        created = sql.Identifier("l", self.created)
        known = sql.SQL("{} <= {}").format(created, at)
        if self.dated:
            return known
        return sql.SQL("({} IS NULL OR {})").format(created, known)


def order_facts(
    table: str, keys: Sequence[str], event: str, created: str | None
) -> list[sql.Composable]:
    """Two boolean columns: ``unique`` and ``dated`` of `RowOrder`, as the catalogue has them."""
    if table.startswith("("):
        return [sql.SQL("FALSE"), sql.SQL("FALSE")]
    columns = [*keys, event, *([created] if created else [])]
    unique = sql.SQL(
        "EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass({table}) "
        "AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL "
        # Nulls are no equals to an index, so that it may hold two rows without a created time.
        "AND (SELECT bool_and(a.attname = ANY({columns}::text[]) AND (a.attnotnull "
        "OR a.attname IS DISTINCT FROM {created})) FROM pg_attribute AS a "
        "WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])))"
    ).format(table=sql.Literal(table), columns=sql.Literal(columns), created=sql.Literal(created))
    dated = sql.SQL(
        "EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = to_regclass({}) "
        "AND a.attname = {} AND a.attnotnull)"
    ).format(sql.Literal(table), sql.Literal(created))
    return [unique, dated]
