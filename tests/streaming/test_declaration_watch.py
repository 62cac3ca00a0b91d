"""What a worker looks at every two seconds is a digest, until something is declared otherwise."""

from pathlib import Path

from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from extensions.database import connect
from streaming.declaration_watch import _stamp
from tests.online.repository import applied


def test_the_stamp_changes_with_sources_columns_defaults_and_domains(
    database: str, redis_server: str, repo_root: Path
) -> None:
    with (
        applied(database, redis_server, repo_root) as store,
        connect(database, autocommit=True) as conn,
    ):
        conn.execute("CREATE DOMAIN small AS integer; CREATE TABLE own (x small)")
        stamps = [_stamp(store, conn)]
        assert _stamp(store, conn) == stamps[0]
        for change in (
            "ALTER TABLE own ADD COLUMN y text",
            "ALTER TABLE own ALTER COLUMN y SET DEFAULT 'a'",
            "ALTER TABLE own ALTER COLUMN y SET DEFAULT 'b'",
            "ALTER TABLE own ALTER COLUMN y SET NOT NULL",
            "ALTER DOMAIN small SET NOT NULL",
            "ALTER TABLE own DROP COLUMN y",
        ):
            conn.execute(change)
            stamps.append(_stamp(store, conn))
        source = PostgreSQLSource(name="own", table="own", timestamp_field="x", tags={"keys": "x"})
        store.registry.apply_data_source(source, store.project)
        stamps.append(_stamp(store, conn))
        assert len(set(map(str, stamps))) == len(stamps)
        conn.execute("INSERT INTO own VALUES (1)")
        assert _stamp(store, conn) == stamps[-1]
