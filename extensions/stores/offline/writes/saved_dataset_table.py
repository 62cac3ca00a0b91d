"""The table of a saved dataset: named as SQL reads the reference, replaced whole or not at all."""

import uuid
from dataclasses import dataclass

import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from psycopg import sql

from extensions.database.identifier_limits import LONGEST_NAME
from extensions.errors import InputError
from extensions.stores.offline.arrow.adbc_session import ArrowSession


@dataclass(frozen=True)
class DatasetTable:
    """``schema`` None: the first of the search path, where a table without a schema is made."""

    schema: str | None
    name: str
    exists: bool

    @classmethod
    def of(cls, reference: str, session: ArrowSession) -> "DatasetTable":
        """Read a reference as it will be read after FROM: ``winter``, ``archive."Winter 26"``.

        Raises:
            InputError: it is no table's name, or too long for one.
        """
        try:
            parts = session.table(
                sql.SQL(
                    "SELECT parse_ident({name}) AS parts, to_regclass({name}) IS NOT NULL AS there"
                ).format(name=sql.Literal(reference))
            )
        except AdbcError as error:
            raise InputError(_refusal(reference)) from error
        names = parts["parts"][0].as_py()
        if len(names) not in (1, 2) or any(len(one.encode()) > LONGEST_NAME for one in names):
            raise InputError(_refusal(reference))
        return cls(names[0] if len(names) == 2 else None, names[-1], parts["there"][0].as_py())

    def write(self, session: ArrowSession, rows: pa.RecordBatchReader) -> None:
        """Make the table of ``rows``, in the place of an older one, in the session's transaction.

        Raises:
            InputError: a column's name is too long for PostgreSQL.
        """
        for column in rows.schema.names:
            if len(column.encode()) > LONGEST_NAME:
                raise InputError(
                    f"The column {column} of the dataset {self.name} has a name of "
                    f"{len(column.encode())} bytes, of which PostgreSQL keeps {LONGEST_NAME}: ask "
                    "for the features without full_feature_names, or save to a file."
                )
        made = f"skewless_new_{uuid.uuid4().hex}"
        session.ingest(made, rows, schema=self.schema)
        if self.exists:
            session.run(sql.SQL("DROP TABLE {}").format(self._named(self.name)))
        session.run(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(
                self._named(made), sql.Identifier(self.name)
            )
        )

    def _named(self, name: str) -> sql.Identifier:
        return sql.Identifier(*([self.schema] if self.schema else []), name)


def _refusal(reference: str) -> str:
    return (
        f"{reference!r} is no name of a table, as SQL reads it: write it as name or schema.name of "
        f'at most {LONGEST_NAME} bytes, and in "quotation marks" where it has other signs.'
    )
