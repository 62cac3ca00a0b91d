"""One project per database: a second one is told so before it changes anything."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer.main
from feast import FeatureStore
from psycopg import sql

from extensions.addresses import POSTGRES_VARIABLE
from extensions.cli import main
from extensions.cli.app import app
from extensions.database import connect, migrate
from extensions.database.project_claim import check_project, claim_project
from extensions.errors import ConflictError
from extensions.operations.database_setup import prepare_database
from extensions.repository import REPO_VARIABLE
from tests.conftest import REPO_ROOT
from tests.databases import copied


def repository(folder: Path, project: str) -> Path:
    """This repository's definitions under another project's name."""
    shutil.copytree(REPO_ROOT / "feature_repo", folder / "feature_repo")
    text = (REPO_ROOT / "feature_store.yaml").read_text()
    (folder / "feature_store.yaml").write_text(
        text.replace("project: skewless", f"project: {project}")
    )
    return folder


def as_project(url: str, project: str) -> psycopg.Connection:
    """A connection of a program of ``project``."""
    conn = connect(url, autocommit=True)
    conn.execute("SELECT set_config('skewless.project', %s, FALSE)", [project])
    return conn


def test_a_second_project_is_refused_and_changes_nothing(
    fresh_database: str, tmp_path: Path
) -> None:
    prepare_database(fresh_database)
    with pytest.raises(ConflictError, match="belongs to the project skewless, not to other"):
        prepare_database(fresh_database, repository(tmp_path, "other"))
    prepare_database(fresh_database)
    with as_project(fresh_database, "skewless") as conn:
        check_project(conn, "skewless")
        with pytest.raises(ConflictError, match="a database of its own"):
            check_project(conn, "other")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO watermarks VALUES ('v', 1, now(), now()) ON CONFLICT DO NOTHING",
        "UPDATE stream_offsets SET next_offset = 0",
        "DELETE FROM view_versions",
        "DELETE FROM backfills",
        "DELETE FROM drift_baselines",
    ],
)
def test_each_write_of_a_foreign_project_is_refused(fresh_database: str, statement: str) -> None:
    prepare_database(fresh_database)
    with as_project(fresh_database, "skewless") as conn:
        conn.execute(statement)
    with (
        as_project(fresh_database, "other") as conn,
        pytest.raises(psycopg.Error, match="belongs to the project skewless") as refused,
    ):
        conn.execute(statement)
    assert refused.value.sqlstate == "SK001"
    with connect(fresh_database, autocommit=True) as conn:
        conn.execute("SELECT set_config('skewless.project', '', FALSE)")
        conn.execute(statement)


# What no claim is checked at: the claim itself, which its own function guards, and yoyo's tables.
UNGUARDED = {"project_claim", "yoyo_lock", "_yoyo_log", "_yoyo_migration", "_yoyo_version"}
# By name, whether the claim is checked before each statement that inserts (4), deletes (8), updates
# (16) or truncates (32). Rows get into partitions by the whole table's name.
_GUARDED = """
SELECT c.relname, EXISTS (
    SELECT FROM pg_trigger AS t
    WHERE t.tgrelid = c.oid AND t.tgfoid = 'check_project_claim'::regproc
    AND t.tgenabled = 'O' AND t.tgtype = 2 + 4 + 8 + 16 + 32
)
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
_WRITES = ("INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}", "TRUNCATE {} CASCADE")


def guarded(conn: psycopg.Connection) -> dict[str, bool]:
    return dict(conn.execute(_GUARDED).fetchall())


@pytest.fixture
def engine_database(postgres_server: str) -> Iterator[str]:
    """A database with the engine's own tables, and no repository's."""
    with copied(postgres_server, "template1") as url:
        migrate(url)
        yield url


def test_every_control_table_checks_the_claim(engine_database: str) -> None:
    """By catalogue: a migration's new table is found here until it is guarded."""
    with as_project(engine_database, "owner") as conn:
        found = guarded(conn)
        assert {name for name, checked in found.items() if not checked} == UNGUARDED
        conn.execute("CREATE TABLE newer (n integer)")
        assert guarded(conn)["newer"] is False
        conn.execute("SELECT guard_control_table('newer')")
        assert guarded(conn)["newer"] is True
        claim_project(conn, "owner")
    assert len(found) > 30
    with as_project(engine_database, "other") as conn:
        for name in found.keys() - UNGUARDED:
            for write in _WRITES:
                with pytest.raises(psycopg.Error, match="belongs to the project owner"):
                    conn.execute(sql.SQL(write).format(sql.Identifier(name)))


def test_connections_say_the_repositorys_project(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(fresh_database) as conn:
        assert conn.execute("SHOW skewless.project").fetchone() == ("skewless",)
        assert conn.execute("SHOW timezone").fetchone() == ("UTC",)
    monkeypatch.setenv(REPO_VARIABLE, str(repository(tmp_path, r"an\ other")))
    with connect(fresh_database) as conn:
        assert conn.execute("SHOW skewless.project").fetchone() == (r"an\ other",)


def test_a_write_by_a_qualified_name_is_judged_as_any_other(fresh_database: str) -> None:
    prepare_database(fresh_database)
    with as_project(fresh_database, "other") as conn:
        conn.execute("SET search_path = pg_temp")
        with pytest.raises(psycopg.Error, match="belongs to the project skewless"):
            conn.execute("DELETE FROM public.watermarks")


ARGUMENTS = {
    "init": None,  # makes a repository, and touches no database
    "import": ["watch_events", "nothing.csv"],
    "backfill": ["user_watch_stats"],
    "labels": ["labels.parquet"],
    "training-set": ["home_page"],
    "promote": ["user_watch_stats", "1"],
    "rollback": ["user_watch_stats"],
    "diff": ["user_watch_stats", "1", "1"],
    "retire": ["user_watch_stats", "1"],
    "sql": ["user_watch_stats"],
    "explain": ["user_watch_stats", "5"],
    "dead-letters show": ["topic/0/1"],
    "stream skip": ["topic/0/1", "--why", "bad"],
    "drift baseline": ["home_page", "--training-set", "none"],
    "drift calibrate": ["home_page"],
}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The words of every command below a group."""
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path)


EVERY_COMMAND = [
    name for name in commands(typer.main.get_command(app)) if ARGUMENTS.get(name, []) is not None
]


@pytest.fixture
def foreign(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection]:
    """A database of another project than the repository that is worked in."""
    with as_project(fresh_database, "owner") as conn:
        migrate(fresh_database)
        claim_project(conn, "owner")
        monkeypatch.setenv(POSTGRES_VARIABLE, fresh_database)
        monkeypatch.setenv(REPO_VARIABLE, str(repository(tmp_path, "other")))
        monkeypatch.chdir(tmp_path)
        yield conn


def tables(conn: psycopg.Connection) -> set[str]:
    query = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')"
    return {name for (name,) in conn.execute(query).fetchall()}


def test_every_command_refuses_another_projects_database(
    foreign: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(EVERY_COMMAND) > 30
    before, accepted = tables(foreign), []
    for name in EVERY_COMMAND:
        words = [*name.split(), *(ARGUMENTS.get(name) or [])]
        with pytest.raises(SystemExit) as ended:
            main(lambda words=words: app(words))  # type: ignore[misc]
        said = capsys.readouterr().err
        if ended.value.code != 1 or "belongs to the project owner, not to other" not in said:
            accepted.append((name, ended.value.code, said))
        else:
            assert said.count("\n") == 1, said
    assert accepted == []
    assert tables(foreign) == before


def test_feasts_own_commands_refuse_another_projects_database(
    foreign: psycopg.Connection, tmp_path: Path
) -> None:
    """All of them begin with the registry: apply, materialize, serve, teardown, the UI."""
    for use in (
        lambda store: store.list_feature_views(),
        lambda store: store.apply([]),
        lambda store: store.materialize_incremental(datetime.now(UTC)),
        lambda store: store.teardown(),
    ):
        with pytest.raises(ConflictError, match="belongs to the project owner, not to other"):
            use(FeatureStore(str(tmp_path)))
