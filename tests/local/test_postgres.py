"""PostgreSQL: its settings, its secrets, its durability, and root's closed folders."""

import contextlib
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import psycopg
import pytest

from extensions.errors import SkewlessError
from extensions.local import postgres, postgres_os_user
from extensions.local.child_process import Account
from extensions.local.server_process import Server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


def test_settings_and_rights(tmp_path: Path, kept: list[Server]) -> None:
    server = postgres.start(tmp_path / "pg", durable=False)
    kept.append(server)
    with psycopg.connect(server.url, autocommit=True) as connection:

        def one(query: str) -> object:
            row = connection.execute(query.encode()).fetchone()
            return row and row[0]

        assert str(one("SHOW server_version")).startswith("18.")
        assert one("SHOW server_encoding") == "UTF8"
        assert one("SHOW timezone") == "UTC"
        assert one("SELECT datcollate FROM pg_database WHERE datname = 'skewless'") == "C"
        assert one("SHOW listen_addresses") == "127.0.0.1"
        assert one("SHOW unix_socket_directories") == ""
        assert one("SHOW fsync") == "off"
        assert one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        connection.execute("CREATE DATABASE copied TEMPLATE skewless")
    with psycopg.connect(server.url.removesuffix("skewless") + "postgres") as connection:
        assert connection.execute("SELECT count(*) FROM pg_stat_statements").fetchone() != (0,)


def test_password_is_needed_and_kept_secret(tmp_path: Path, kept: list[Server]) -> None:
    server = postgres.start(tmp_path / "pg", durable=False)
    kept.append(server)
    password = (tmp_path / "pg" / "password").read_text()
    assert stat.S_IMODE((tmp_path / "pg" / "password").stat().st_mode) == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url.replace(password, "wrong"))
    log = (tmp_path / "pg" / "server.log").read_text()
    assert password not in log
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()


@pytest.mark.parametrize("whom", ["server", "everyone"])
def test_data_survives_a_kill(tmp_path: Path, kept: list[Server], whom: str) -> None:
    server = postgres.start(tmp_path / "pg")
    kept.append(server)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 10000) AS n")
    if whom == "everyone":
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        for pid in map(int, children):
            with contextlib.suppress(ProcessLookupError):  # one that was just going
                os.kill(pid, signal.SIGKILL)
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()

    again = postgres.start(tmp_path / "pg")
    kept.append(again)
    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (10_000,)


def test_interrupted_initialisation_is_begun_again(tmp_path: Path, kept: list[Server]) -> None:
    (tmp_path / "pg" / "pgdata.new" / "base").mkdir(parents=True)
    kept.append(postgres.start(tmp_path / "pg", durable=False))
    assert not (tmp_path / "pg" / "pgdata.new").exists()


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pg" / "pgdata").mkdir(parents=True)
    with pytest.raises(SkewlessError, match="is not a data folder of this project's PostgreSQL"):
        postgres.start(tmp_path / "pg")


def test_another_major_version_is_refused(tmp_path: Path) -> None:
    pgdata = tmp_path / "pg" / "pgdata"
    pgdata.mkdir(parents=True)
    (pgdata / "PG_VERSION").write_text("17\n")
    (tmp_path / "pg" / "password").write_text("x")
    with pytest.raises(SkewlessError, match="was made by PostgreSQL 17, and this is 18"):
        postgres.start(tmp_path / "pg")


@as_root
class TestRoot:
    """A virtual environment and a data folder under a folder that only root may enter."""

    @pytest.fixture
    def open_folder(self, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder for temporary files that all may enter, as /tmp is; pytest's are closed."""
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        folder.chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        return folder

    @pytest.fixture
    def closed_venv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The package, installed where `nobody` cannot go."""
        closed = tmp_path / "root"
        closed.mkdir(mode=0o700)
        package = postgres_os_user._package()
        for folder in (package, package.parent / f"{package.name}.libs"):
            shutil.copytree(folder, closed / folder.name)
        monkeypatch.setattr(postgres_os_user, "_package", lambda: closed / package.name)
        monkeypatch.setenv("XDG_CACHE_HOME", str(closed / "cache"))
        return closed

    def test_starts(self, open_folder: Path, closed_venv: Path, kept: list[Server]) -> None:
        modes = {path: path.stat().st_mode for path in (closed_venv, *closed_venv.parents)}
        server = postgres.start(closed_venv / "home" / "pg", durable=False)
        kept.append(server)
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(open_folder)
        assert modes == {path: path.stat().st_mode for path in modes}, "no folder was opened up"
        server.stop()
        shutil.rmtree(open_folder)

    def test_copy_is_reused_and_repaired(self, open_folder: Path, closed_venv: Path) -> None:
        account = postgres_os_user.server_account(closed_venv / "pgdata")
        programs = postgres_os_user.binaries(account)
        made = programs.stat().st_ino
        assert postgres_os_user.binaries(account).stat().st_ino == made
        (programs.parent / "share" / "postgres.bki").unlink()
        assert postgres_os_user.binaries(account) == programs
        assert programs.stat().st_ino != made
        assert (programs.parent / "share" / "postgres.bki").exists()
        assert len(list(open_folder.iterdir())) == 1
        shutil.rmtree(open_folder)

    def test_a_copy_by_somebody_else_is_refused(self, open_folder: Path, closed_venv: Path) -> None:
        account = postgres_os_user.server_account(closed_venv / "pgdata")
        assert isinstance(account, Account)
        place = postgres_os_user.binaries(account).parents[2]
        os.chown(place, account.uid, account.gid)
        with pytest.raises(SkewlessError, match="belongs to somebody else"):
            postgres_os_user.binaries(account)
        shutil.rmtree(open_folder)

    def test_runs_as_the_owner_of_existing_data(self, tmp_path: Path) -> None:
        (tmp_path / "pgdata").mkdir()
        os.chown(tmp_path / "pgdata", 12_345, 12_345)
        assert postgres_os_user.server_account(tmp_path / "pgdata") == Account(12_345, 12_345)
