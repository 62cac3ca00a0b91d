"""One project per database: a second one is told so before it changes anything."""

import shutil
from pathlib import Path

import psycopg
import pytest

from extensions import addresses
from extensions.addresses import REPO_ROOT
from extensions.database import connect
from extensions.database.project_claim import check_project
from extensions.errors import ConflictError
from extensions.operations.database_setup import prepare_database


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


def test_connections_say_the_repositorys_project(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(fresh_database) as conn:
        assert conn.execute("SHOW skewless.project").fetchone() == ("skewless",)
        assert conn.execute("SHOW timezone").fetchone() == ("UTC",)
    monkeypatch.setattr(addresses, "REPO_ROOT", repository(tmp_path, r"an\ other"))
    with connect(fresh_database) as conn:
        assert conn.execute("SHOW skewless.project").fetchone() == (r"an\ other",)


def test_a_write_by_a_qualified_name_is_judged_as_any_other(fresh_database: str) -> None:
    prepare_database(fresh_database)
    with as_project(fresh_database, "other") as conn:
        conn.execute("SET search_path = pg_temp")
        with pytest.raises(psycopg.Error, match="belongs to the project skewless"):
            conn.execute("DELETE FROM public.watermarks")
