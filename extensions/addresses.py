"""Where the servers are: one rule for every part that connects to something.

An address written in ``feature_store.yaml`` is used as it stands. One left out there is taken
from the environment, and if it is not there either, from the stack that `skewless up` runs in
this repository. Feast's registry reads its URL itself, so `RegistryAddress` brings the same
rule to it as a SQLAlchemy plugin.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import URL, make_url
from sqlalchemy.engine import CreateEnginePlugin

from extensions.errors import SkewlessError

POSTGRES_VARIABLE = "SKEWLESS_POSTGRES_URL"
REDIS_VARIABLE = "SKEWLESS_REDIS_URL"
KAFKA_VARIABLE = "SKEWLESS_KAFKA_BOOTSTRAP"
HOME_VARIABLE = "SKEWLESS_HOME"
VARIABLES = {
    "postgres": POSTGRES_VARIABLE,
    "redis": REDIS_VARIABLE,
    "kafka": KAFKA_VARIABLE,
}

REPO_ROOT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """The folder that holds the local stack's data and state."""
    return Path(os.environ.get(HOME_VARIABLE) or REPO_ROOT / ".skewless").resolve()


def postgres_url() -> str:
    """``postgresql://user:password@host:port/database``."""
    return _find("postgres", "PostgreSQL")


def redis_url() -> str:
    """``redis://host:port/database``."""
    return _find("redis", "Redis")


def kafka_bootstrap() -> str:
    """``host:port[,host:port…]``."""
    return _find("kafka", "Kafka")


def running_stack() -> dict[str, Any] | None:
    """What `skewless up` wrote about the stack it is running here; None when none runs."""
    try:
        state: dict[str, Any] = json.loads((home() / "stack.json").read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


def set_elsewhere(server: str) -> str | None:
    """The address of ``postgres``, ``redis`` or ``kafka`` that a person wrote down, if any.

    That is feature_store.yaml's, or else the environment's; such a server is never started here.
    """
    return _written(server) or os.environ.get(VARIABLES[server]) or None


def _written(server: str) -> str | None:
    path = REPO_ROOT / "feature_store.yaml"
    if server == "kafka" or not path.is_file():
        return None
    settings = yaml.safe_load(os.path.expandvars(path.read_text())) or {}
    if server == "redis":
        written = settings.get("online_store", {}).get("connection_string")
        return redis_url_of(written) if written else None
    store = settings.get("offline_store", {})
    return postgres_url_of(store) if store.get("host") else None


def postgres_url_of(store: Mapping[str, Any]) -> str:
    """The settings of Feast's PostgreSQL store as a URL that libpq reads."""
    query = {
        "sslmode": store.get("sslmode"),
        "sslkey": store.get("sslkey_path"),
        "sslcert": store.get("sslcert_path"),
        "sslrootcert": store.get("sslrootcert_path"),
        "keepalives_idle": store.get("keepalives_idle"),
    }
    return URL.create(
        "postgresql",
        username=store.get("user"),
        password=store.get("password"),
        host=store["host"],
        port=int(store.get("port") or 5432),
        database=store.get("database"),
        query={name: str(value) for name, value in query.items() if value is not None},
    ).render_as_string(hide_password=False)


# Options that have a place of their own in a URL; others, such as ssl_ca_certs, are its query.
_IN_URL = frozenset({"ssl", "username", "password", "db"})


def redis_url_of(connection_string: str) -> str:
    """Feast's ``host:port,db=0,password=…`` as a URL; of a cluster, its first node."""
    parts = connection_string.split(",")
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    host, _, port = next(part for part in parts if "=" not in part).partition(":")
    return URL.create(
        "rediss" if options.get("ssl") == "true" else "redis",
        username=options.get("username", "" if "password" in options else None),
        password=options.get("password"),
        host=host,
        port=int(port or 6379),
        database=options.get("db", "0"),
        query={name: value for name, value in options.items() if name not in _IN_URL},
    ).render_as_string(hide_password=False)


def connection_string_of(url: str) -> str:
    """The other way: ``redis://user:password@host:port/db`` as Feast's Redis store reads it."""
    parsed = make_url(url)
    parts = [f"{parsed.host}:{parsed.port or 6379}", f"db={parsed.database or 0}"]
    if parsed.username:
        parts.append(f"username={parsed.username}")
    if parsed.password:
        parts.append(f"password={parsed.password}")
    if parsed.drivername == "rediss":
        parts.append("ssl=true")
    parts += [f"{name}={value}" for name, value in parsed.query.items()]
    return ",".join(parts)


def _find(server: str, name: str) -> str:
    if found := set_elsewhere(server):
        return found
    variable = VARIABLES[server]
    stack = running_stack()
    if stack and stack.get(server):
        return str(stack[server])
    raise SkewlessError(
        f"No {name} address: run `make up` in another terminal, or set {variable}, "
        "or write the address into feature_store.yaml."
    )


@dataclass(frozen=True)
class PostgresAddress:
    """The parts of a PostgreSQL URL that Feast's configuration wants one by one."""

    host: str
    port: int
    database: str
    user: str
    password: str
    sslmode: str

    @classmethod
    def parse(cls, url: str) -> "PostgresAddress":
        """Read ``postgresql://…``; ``sslmode`` defaults to libpq's own default, ``prefer``."""
        parsed = make_url(url)
        if not parsed.drivername.startswith("postgres") or not parsed.host:
            raise SkewlessError(
                f"{POSTGRES_VARIABLE} must look like postgresql://user:password@host:port/database."
            )
        sslmode = parsed.query.get("sslmode", "prefer")
        return cls(
            host=parsed.host,
            port=parsed.port or 5432,
            database=parsed.database or "postgres",
            user=parsed.username or "postgres",
            password=str(parsed.password or ""),
            sslmode=sslmode if isinstance(sslmode, str) else sslmode[0],
        )


class RegistryAddress(CreateEnginePlugin):
    """SQLAlchemy plugin ``skewless``: fills in a registry URL that names no host.

    Feast takes the SQL registry's URL from ``feature_store.yaml`` alone and expands variables
    there without a default; a plugin is SQLAlchemy's own place to complete a URL.
    """

    def update_url(self, url: URL) -> URL:
        """Return ``url`` itself when it names a host, else the address found by the rule."""
        url = url.difference_update_query(["plugin"])
        if url.host:
            return url
        found = make_url(postgres_url())
        return found.set(drivername=url.drivername).update_query_dict(dict(url.query))
