"""Declaration watch: notices that streams, or the columns of their tables, are declared otherwise.

`skewless apply` writes what the files say into Feast's registry, and `skewless migrate` changes
tables. A worker has read both when it started, and Python reads a module once; so it ends in an
orderly way and is run again in a new process (`skewless ingest` does so by itself).

A message that is produced after an apply has returned must not be read as it was declared before (a
new column's value would be lost): each step glances at the registry's row versions first.
"""

import logging
import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import psycopg
from feast import FeatureStore
from sqlalchemy import text

from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.failure_classification import of_a_server
from extensions.sources import load_sources
from extensions.thread_supervision import Lasting
from streaming.settings import Settings

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 2.0

Declarations = Mapping[str, tuple[object, ...]]


class DeclarationWatch(Lasting):
    """Sets ``stopping`` when the declarations have changed since it was made.

    Make it before the declarations are read, so that no change falls between.

    Attributes:
        changed: Whether they have.
    """

    def __init__(
        self, settings: Settings, stopping: threading.Event, every: float = LOOK_EVERY_SECONDS
    ) -> None:
        super().__init__("declarations", self._watch, stopping)
        self._settings, self._every = settings, every
        self._store = FeatureStore(str(settings.repo_root))
        self._read: tuple[object, Declarations] | None = None
        self._lock = threading.Lock()
        self._glanced = _row_versions(self._store)
        self._first = self._look()
        self.changed = False

    def unchanged(self) -> bool:
        """Whether the streams are declared as they were; as far as the registry can be asked now.

        Costs a query of the row versions of its sources, and more only after one was written.
        """
        with self._lock:
            glance = _row_versions(self._store)
            if glance is None or glance == self._glanced:
                return True
            now = self._look()
            if now is not None and now != self._first:
                return False
            if now is not None:
                self._glanced = glance
            return True

    def _watch(self) -> None:
        before: Declarations | None = None
        while True:
            with self._lock:
                now = self._look()
                self._first = now if self._first is None else self._first
                first = self._first
            if now is not None:
                # The same twice: an apply that is under way is waited for.
                if now == before != first:
                    logger.warning("The declared streams have changed: the worker starts again.")
                    self.changed = True
                    self._stopping.set()
                before = now
            if self._stopping.wait(self._every):
                return

    def _look(self) -> Declarations | None:
        """What is declared now; None while it cannot be read."""
        try:
            with connect(self._settings.postgres_url, name="skewless ingest: streams") as conn:
                # Taken first: what changes meanwhile has another stamp the next time.
                stamp = _stamp(self._store, conn)
                if self._read is None or stamp is None or self._read[0] != stamp:
                    self._read = stamp, declarations(self._store, conn, self._settings.stream)
                return self._read[1]
        except Exception as error:
            if not (isinstance(error, SkewlessError) or of_a_server(error)):
                raise
            return None


def _row_versions(store: FeatureStore) -> object:
    """Changes whenever a source is written to the registry; None where that cannot be asked."""
    engine = _postgres_engine(store)
    if engine is None:
        return None
    try:
        with engine.connect() as connection:
            return connection.execute(_VERSIONS, {"project": store.project}).fetchone()
    except Exception as error:
        if not of_a_server(error):
            raise
        return None


def _postgres_engine(store: FeatureStore) -> Any:
    """The engine of a registry in PostgreSQL, else None."""
    engine = getattr(store.registry, "read_engine", None)
    return engine if engine is not None and engine.dialect.name == "postgresql" else None


def _stamp(store: FeatureStore, conn: psycopg.Connection) -> object:
    """Changes with any source in the registry, and any column of the database's own tables.

    To parse the sources of a thousand views takes as long as hundreds of these digests. None where
    the registry is in no PostgreSQL.
    """
    engine = _postgres_engine(store)
    if engine is None:
        return None
    with engine.connect() as connection:
        sources = connection.execute(_SOURCES, {"project": store.project}).scalar()
    return sources, conn.execute(_CATALOGUE).fetchone()


_SOURCES = text(
    "SELECT md5(string_agg(md5(data_source_proto), '' ORDER BY data_source_name)) "
    "FROM data_sources WHERE project_id = :project"
)
_VERSIONS = text(
    "SELECT count(*), sum(xmin::text::bigint) FROM data_sources WHERE project_id = :project"
)
# Row versions: `ALTER` writes new ones, of a column, its default or its domain.
_CATALOGUE = """
SELECT
    (SELECT md5(string_agg(concat_ws(' ', attrelid, attnum, a.xmin), ',' ORDER BY attrelid, attnum))
        FROM pg_attribute AS a INNER JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace <> 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'p')),
    (SELECT md5(string_agg(concat(oid, ' ', d.xmin), ',' ORDER BY oid)) FROM pg_attrdef AS d),
    (SELECT md5(string_agg(concat(oid, ' ', t.xmin), ',' ORDER BY oid)) FROM pg_type AS t
        WHERE typtype = 'd')
"""


def declarations(
    store: FeatureStore, conn: psycopg.Connection, only: str = ""
) -> Mapping[str, tuple[Any, ...]]:
    """All that a worker reads of each applied stream (or of ``only`` one), comparable."""
    registry: Any = store.registry
    contents: Any = SimpleNamespace(
        data_sources=registry.list_data_sources(store.project, allow_cache=False)
    )
    found = {}
    for name, stream in load_sources(contents, conn, str(store.project)).streams.items():
        if only in ("", name):
            said: Any = stream.message_format
            found[name] = (
                *(value for key, value in vars(stream).items() if key != "message_format"),
                said.to_proto().SerializeToString(deterministic=True) if said else None,
            )
    return found
