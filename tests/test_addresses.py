"""Where the servers are: feature_store.yaml before the environment before the running stack."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from redis.connection import parse_url
from sqlalchemy import make_url

from extensions import addresses
from extensions.database import connect, connect_arrow, migrate
from extensions.errors import SkewlessError
from extensions.repository import REPO_VARIABLE
from extensions.stores.offline.store import SkewlessPostgresOfflineStoreConfig
from extensions.stores.online.store import SkewlessRedisOnlineStore
from tests.databases import drop


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for variable in (*addresses.VARIABLES.values(), addresses.HOME_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(REPO_VARIABLE, str(tmp_path))
    (tmp_path / "feature_store.yaml").write_text("project: x\noffline_store:\n  type: ours\n")
    return tmp_path


def test_without_any_address_the_sentence_names_all_three_ways(repository: Path) -> None:
    with pytest.raises(SkewlessError) as error:
        addresses.postgres_url()
    for way in ("skewless up", addresses.POSTGRES_VARIABLE, "feature_store.yaml"):
        assert way in str(error.value)


def test_the_file_wins_over_the_environment_and_that_over_the_stack(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / ".skewless").mkdir()
    stack = {"pid": os.getpid(), "postgres": "postgresql://stack/x", "redis": "redis://stack/0"}
    (repository / ".skewless" / "stack.json").write_text(json.dumps(stack))
    assert addresses.postgres_url() == "postgresql://stack/x"
    assert addresses.set_elsewhere("postgres") is None

    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, "postgresql://environment/x")
    assert addresses.postgres_url() == "postgresql://environment/x"

    (repository / "feature_store.yaml").write_text(
        "offline_store: {host: written, port: 5433, database: f, user: u, password: 'p@ss'}\n"
        "online_store: {connection_string: 'cache:6380,db=2,password=secret,ssl=true'}\n"
    )
    assert addresses.postgres_url() == "postgresql://u:p%40ss@written:5433/f"
    assert addresses.redis_url() == "rediss://:secret@cache:6380/2"
    again = addresses.connection_string_of(addresses.redis_url())
    assert addresses.redis_url_of(again) == addresses.redis_url()

    url = "rediss://:secret@cache:6380/2?ssl_ca_certs=/etc/ca.pem"
    assert addresses.connection_string_of(url).split(",")[-1] == "ssl_ca_certs=/etc/ca.pem"
    assert addresses.redis_url_of(addresses.connection_string_of(url)) == url.replace(
        "/etc/ca.pem", "%2Fetc%2Fca.pem"
    )


def test_a_stack_that_has_died_is_no_address(repository: Path) -> None:
    (repository / ".skewless").mkdir()
    (repository / ".skewless" / "stack.json").write_text(
        json.dumps({"pid": 2**22 + 1, "postgres": "postgresql://gone/x"})
    )
    with pytest.raises(SkewlessError):
        addresses.postgres_url()


# Whatever a person may have in a password, a user's or a database's name.
PART = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: "\0" not in text
)
OPTIONS = {
    "sslmode": st.sampled_from(["disable", "prefer", "verify-full"]),
    "sslrootcert": PART,
    "sslcert": PART,
    "sslkey": PART,
    "sslcrl": PART,
    "connect_timeout": st.integers(1, 99).map(str),
    "keepalives_idle": st.integers(1, 99).map(str),
    "application_name": PART,
    "options": st.just("-c statement_timeout=5000 -c search_path=a,b"),
    "target_session_attrs": st.sampled_from(["any", "read-write"]),
    "passfile": PART,
}
HOSTS = st.sampled_from(["db.internal", "127.0.0.1", "::1", "/var/run/postgresql", "a,b"])
PORTS = {"a,b": "5432,5433"}


@settings(max_examples=300, deadline=None)
@given(
    given=st.fixed_dictionaries(
        {"user": PART, "password": PART, "dbname": PART, "host": HOSTS}, optional=OPTIONS
    )
)
def test_everything_in_a_postgresql_url_reaches_every_client(given: dict[str, str]) -> None:
    """libpq's own reading is the oracle: psycopg and ADBC get the URL, SQLAlchemy its parts."""
    told = given | {"port": PORTS.get(given["host"], "5432")}
    url = addresses.libpq_url(told)
    assert conninfo_to_dict(url) == told
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.POSTGRES_VARIABLE, url)
        patch.chdir("/")
        config = SkewlessPostgresOfflineStoreConfig()
        again = conninfo_to_dict(addresses.postgres_url_of(config.model_dump()))
        assert again == {"sslmode": "prefer"} | told
        registry = addresses.RegistryAddress(None, {}).update_url(  # type: ignore[arg-type]
            make_url("postgresql+psycopg://?plugin=skewless")
        )
    positional, named = registry.get_dialect()().create_connect_args(registry)
    assert not positional
    used = {name: str(value) for name, value in named.items() if name != "context"}
    assert used == told


@settings(max_examples=300, deadline=None)
@given(
    user=st.one_of(st.just(""), PART),
    password=st.one_of(st.just(""), PART, st.sampled_from(["1e5", "null", "true", "12", "a,b=c"])),
    host=st.sampled_from(["cache", "10.0.0.1", "[::1]"]),
    scheme=st.sampled_from(["redis", "rediss"]),
    options=st.fixed_dictionaries(
        {}, optional={"client_name": PART, "socket_timeout": st.sampled_from(["2.5", "7"])}
    ),
)
def test_everything_in_a_redis_url_reaches_the_store(
    user: str, password: str, host: str, scheme: str, options: dict[str, str]
) -> None:
    """redis-py's own reading of the URL is the oracle."""
    who = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
    url = f"{scheme}://{who}{host}:6380/3{'?' if query else ''}{query}"
    told = parse_url(url)
    written = addresses.connection_string_of(url)
    [node], used = SkewlessRedisOnlineStore._parse_connection_string(written)
    assert (node["host"], int(node["port"])) == (told.pop("host"), told.pop("port"))
    told["ssl"] = told.pop("connection_class", None) is not None
    wanted = {name: value for name, value in told.items() if str(value) not in ("", "False")}
    got = {name: value for name, value in used.items() if str(value) not in ("", "False")}
    # Feast's form has texts and numbers; redis-py takes either.
    assert {name: str(value) for name, value in got.items()} == {
        name: str(value) for name, value in wanted.items()
    }
    assert parse_url(addresses.redis_url_of(written)) == parse_url(url)


def test_a_bad_postgresql_url_is_not_shown() -> None:
    with pytest.raises(SkewlessError, match="must look like") as error:
        addresses.PostgresAddress.parse("postgresql://u:se cret@h/d")
    assert "se cret" not in str(error.value)


def test_settings_of_a_url_reach_the_session(postgres_server: str) -> None:
    url = postgres_server + "?application_name=mine&options=-c%20statement_timeout%3D4321"
    with connect(url) as conn:
        shown = [
            conn.execute(f"SHOW {name}").fetchone()
            for name in ("application_name", "statement_timeout", "timezone")
        ]
    assert shown == [("mine",), ("4321ms",), ("UTC",)]
    with connect_arrow(url) as arrow, arrow.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout') AS x")
        assert cursor.fetch_arrow_table()["x"].to_pylist() == ["4321ms"]


def test_a_database_whose_name_needs_quoting_is_migrated(postgres_server: str) -> None:
    name = "odd name%&=é,'"
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    told = {**conninfo_to_dict(postgres_server), "dbname": name}
    url = addresses.libpq_url({key: str(value) for key, value in told.items()})
    assert migrate(url)
    with connect(url) as conn:
        assert conn.execute("SELECT current_database()").fetchone() == (name,)
    with connect_arrow(url) as arrow, arrow.cursor() as cursor:
        cursor.execute("SELECT current_database()::text AS x")
        assert cursor.fetch_arrow_table()["x"].to_pylist() == [name]
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        drop(conn, name)
