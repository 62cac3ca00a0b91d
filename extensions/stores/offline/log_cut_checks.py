"""Which of the logs that a session reads were cut, and refusals of what needs their older rows."""

from collections.abc import Iterable
from datetime import datetime

from psycopg import sql

from extensions.asof.log_cuts import TABLE, Cut
from extensions.stores.offline.arrow.adbc_session import ArrowSession

_CUTS = """
SELECT t.name, c.log_table, c.cut_before, c.first_event, c.exported_through, c.snapshot_id
FROM unnest({}::text[]) AS t (name)
INNER JOIN log_cuts AS c ON to_regclass(t.name) = to_regclass(quote_ident(c.log_table))
"""


def session_cuts(session: ArrowSession, tables: Iterable[str]) -> dict[str, Cut]:
    """The cuts of tables, as the session's transaction will see them until its end.

    Args:
        session: An open session.
        tables: As they stand after FROM; queries in parentheses are passed over.

    Returns:
        By the table as it was given; tables that were not cut are left out.
    """
    names = sorted({table for table in tables if not table.startswith("(")})
    if not names or not session.has(TABLE):
        return {}
    logs = session.table(
        sql.SQL(
            "SELECT DISTINCT c.oid::regclass::text AS log FROM unnest({}::text[]) AS t (name) "
            "INNER JOIN pg_class AS c ON c.oid = to_regclass(t.name) WHERE c.relkind = 'p'"
        ).format(sql.Literal(names))
    )["log"].to_pylist()
    if logs:  # whoever cuts one waits for the transaction
        session.run(
            sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(
                sql.SQL(", ").join(sql.SQL(f"ONLY {log}") for log in logs)
            )
        )
    rows = session.table(sql.SQL(_CUTS).format(sql.Literal(names))).to_pylist()
    return {
        row["name"]: Cut(
            row["log_table"],
            row["cut_before"],
            row["first_event"],
            row["exported_through"],
            row["snapshot_id"],
        )
        for row in rows
    }


def require_hot_rows(session: ArrowSession, table: str, as_of: datetime | None, doing: str) -> None:
    """Refuse what reads PostgreSQL alone, where it no longer answers; None: from the beginning.

    Raises:
        ColdRowsError: the log was cut at a later time.
    """
    for cut in session_cuts(session, [table]).values():
        if as_of is None or not cut.answers(as_of):
            raise cut.refusal(as_of or cut.first_event, doing)
