"""Server addresses: where PostgreSQL, Redis and Kafka are, resolved by one rule.

An address in ``feature_store.yaml`` is used as written. If it is left out there, it is taken from
the environment, else from the stack that `skewless up` runs for the repository. Feast's registry
reads its URL itself; `RegistryAddress`, a SQLAlchemy plugin, applies the same rule to it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import yaml
from sqlalchemy import URL
from sqlalchemy.engine import CreateEnginePlugin

from extensions.errors import ConfigurationError
from extensions.repository import STORE_FILE, find_repository, repo_root, working_for

POSTGRES_VARIABLE = "SKEWLESS_POSTGRES_URL"
REDIS_VARIABLE = "SKEWLESS_REDIS_URL"
KAFKA_VARIABLE = "SKEWLESS_KAFKA_BOOTSTRAP"
HOME_VARIABLE = "SKEWLESS_HOME"
VARIABLES = {
    "postgres": POSTGRES_VARIABLE,
    "redis": REDIS_VARIABLE,
    "kafka": KAFKA_VARIABLE,
}


def home() -> Path:
    """The folder that holds the local stack's data and state: ``.skewless`` in the repository.

    Raises:
        ConfigurationError: there is no repository, and SKEWLESS_HOME names no folder.
    """
    return Path(os.environ.get(HOME_VARIABLE) or repo_root() / ".skewless").resolve()


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
    """The addresses of the stack that `skewless up` runs here; None if none is running."""
    try:
        state: dict[str, Any] = json.loads((home() / "stack.json").read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


def set_elsewhere(server: str) -> str | None:
    """The configured address of ``postgres``, ``redis`` or ``kafka``, or None.

    From feature_store.yaml, else the environment; a configured server is never started here.
    """
    return _written(server) or os.environ.get(VARIABLES[server]) or None


def project_name(repository: Path | None = None) -> str | None:
    """The ``project`` of the repository's ``feature_store.yaml``; None if there is none."""
    project = _repository_settings(repository or find_repository()).get("project")
    return str(project) if project else None


def _repository_settings(repository: Path | None) -> dict[str, Any]:
    path = None if repository is None else repository / STORE_FILE
    if path is None or not path.is_file():
        return {}
    return yaml.safe_load(os.path.expandvars(path.read_text())) or {}


def _written(server: str) -> str | None:
    if server == "kafka":
        return None
    settings = _repository_settings(find_repository())
    if server == "redis":
        written = settings.get("online_store", {}).get("connection_string")
        return redis_url_of(written) if written else None
    store = settings.get("offline_store", {})
    return postgres_url_of(store) if store.get("host") else None


# The settings of Feast's PostgreSQL store that libpq knows by another name.
_FEAST_NAMES = {
    "database": "dbname",
    "sslkey_path": "sslkey",
    "sslcert_path": "sslcert",
    "sslrootcert_path": "sslrootcert",
}
_FEAST_SETTINGS = (
    "user", "password", "host", "port", "database", "sslmode", "sslkey_path", "sslcert_path",
    "sslrootcert_path", "keepalives_idle",
)  # fmt: skip


def postgres_url_of(store: Mapping[str, Any]) -> str:
    """The settings of our PostgreSQL store as a URL that libpq reads.

    ``parameters``: what libpq knows beyond Feast's settings (connect_timeout, options, …).

    Raises:
        ConfigurationError: they have no host, since no address was found.
    """
    if not store.get("host"):
        raise _no_address("postgres", "PostgreSQL")
    given = {
        _FEAST_NAMES.get(name, name): str(store[name])
        for name in _FEAST_SETTINGS
        if store.get(name) is not None
    }
    given.setdefault("port", "5432")
    return libpq_url({**given, **(store.get("parameters") or {})})


def libpq_url(settings: Mapping[str, str]) -> str:
    """Libpq's settings by their own names (``host``, ``dbname``, …) as one URL.

    Everything is percent-encoded; several hosts or a socket's folder go into the query.
    """
    rest = dict(settings)
    user, password = rest.pop("user", None), rest.pop("password", None)
    host, port = rest.pop("host", ""), rest.pop("port", None)
    database = rest.pop("dbname", "")
    if not host or "/" in host or "," in host or host.startswith("@"):
        rest |= {name: value for name, value in (("host", host), ("port", port)) if value}
        where = ""
    else:
        where = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    who = "" if user is None else _quoted(user)
    who += "" if password is None else ":" + _quoted(password)
    query = "&".join(f"{name}={_quoted(value)}" for name, value in rest.items())
    return (
        f"postgresql://{who}{'@' if who else ''}{where}/{_quoted(database)}"
        f"{'?' if query else ''}{query}"
    )


def libpq_settings(url: str) -> dict[str, str]:
    """A PostgreSQL URL's settings by libpq's own names, as libpq itself reads them.

    Raises:
        ConfigurationError: it is not a PostgreSQL URL; the message does not show it.
    """
    from psycopg import ProgrammingError  # noqa: PLC0415 - most commands read no such URL
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        settings = conninfo_to_dict(re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url))
    except ProgrammingError:
        settings = {}
    if not url.startswith("postgres") or not settings.get("host"):
        raise ConfigurationError(
            f"{POSTGRES_VARIABLE} must look like postgresql://user:password@host:port/database; "
            "spaces and signs within a part are written as %20 and the like."
        )
    return {name: str(value) for name, value in settings.items() if value is not None}


# Options that have a place of their own in a URL; others, such as ssl_ca_certs, are its query.
_IN_URL = frozenset({"ssl", "username", "password", "db"})


def redis_url_of(connection_string: str) -> str:
    """Feast's ``host:port,db=0,password=…`` as a URL; of a cluster, the first node.

    A URL is returned unchanged: it can express what Feast's form cannot (a comma in a password).
    """
    if "://" in connection_string:
        return connection_string
    parts = connection_string.split(",")
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    host, _, port = next(part for part in parts if "=" not in part).partition(":")
    user, password = options.get("username"), options.get("password")
    who = "" if user is None else _quoted(user)
    who += "" if password is None else ":" + _quoted(password)
    query = "&".join(f"{n}={_quoted(v)}" for n, v in options.items() if n not in _IN_URL)
    scheme = "rediss" if options.get("ssl") == "true" else "redis"
    return (
        f"{scheme}://{who}{'@' if who else ''}{host}:{port or 6379}/{options.get('db', '0')}"
        f"{'?' if query else ''}{query}"
    )


def connection_string_of(url: str) -> str:
    """The inverse: ``redis://user:password@host:port/db`` as our Redis store reads it.

    Feast's form if it means the same, else the URL itself (see `redis_parts`).
    """
    parsed = urlsplit(url)
    options = dict(parse_qsl(parsed.query, keep_blank_values=True))
    user, password = unquote(parsed.username or ""), unquote(parsed.password or "")
    host = parsed.hostname or ""
    texts = [user, password, *options.values()]
    plain = not any("," in text or _means_more(text) for text in texts) and "db" not in options
    if not plain or ":" in host or not host or parsed.scheme not in ("redis", "rediss"):
        return url
    parts = [f"{host}:{parsed.port or 6379}", f"db={parsed.path.strip('/') or 0}"]
    if user:
        parts.append(f"username={user}")
    if password:
        parts.append(f"password={password}")
    if parsed.scheme == "rediss":
        parts.append("ssl=true")
    parts += [f"{name}={value}" for name, value in options.items()]
    return ",".join(parts)


def _means_more(text: str) -> bool:
    """Whether Feast would parse the text as JSON, as it does ``1e5``, ``null`` and ``true``."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def redis_parts(connection_string: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Nodes (host, port) and redis-py's options, of a URL or of Feast's form.

    Raises:
        ConfigurationError: a URL that names no host, or none, since no address was found.
    """
    if not connection_string:
        raise _no_address("redis", "Redis")
    if "://" not in connection_string:
        from extensions.feast_internals import redis_parts_of  # noqa: PLC0415

        return redis_parts_of(connection_string)
    from redis.connection import parse_url  # noqa: PLC0415

    options: dict[str, Any] = dict(parse_url(connection_string))  # type: ignore[no-untyped-call]
    if "host" not in options:
        raise ConfigurationError(
            f"{REDIS_VARIABLE} must look like redis://user:password@host:port/database."
        )
    node = {"host": str(options.pop("host")), "port": str(options.pop("port", 6379))}
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    return [node], options


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _find(server: str, name: str) -> str:
    if found := set_elsewhere(server):
        return found
    stack = running_stack()
    if stack and stack.get(server):
        return str(stack[server])
    raise _no_address(server, name)


def _no_address(server: str, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"No {name} address: run `skewless up` in another terminal, or set {VARIABLES[server]}, "
        "or write the address into feature_store.yaml."
    )


@dataclass(frozen=True)
class PostgresAddress:
    """The parts of a PostgreSQL URL that Feast's configuration takes separately.

    ``parameters``: everything else in the URL, by libpq's names, several hosts included.
    """

    host: str
    port: int
    database: str
    user: str
    password: str
    sslmode: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> "PostgresAddress":
        """Read ``postgresql://…``; ``sslmode`` defaults to libpq's own default, ``prefer``.

        Raises:
            SkewlessError: it is not a PostgreSQL URL.
        """
        told = libpq_settings(url)
        host, port = told.pop("host"), told.pop("port", "5432")
        if not port.isdigit():  # one for each of several hosts
            told["port"], port = port, port.partition(",")[0] or "5432"
        user = told.pop("user", "postgres")
        return cls(
            host=host,
            port=int(port),
            database=told.pop("dbname", "postgres"),
            user=user,
            password=told.pop("password", ""),
            sslmode=told.pop("sslmode", "prefer"),
            parameters=told,
        )

    def settings(self) -> dict[str, Any]:
        """The settings of our offline store."""
        known = {_FEAST_NAMES[name]: name for name in _FEAST_NAMES if name.endswith("_path")}
        known["keepalives_idle"] = "keepalives_idle"
        rest = {name: value for name, value in self.parameters.items() if name not in known}
        given = {known[name]: v for name, v in self.parameters.items() if name in known}
        if "keepalives_idle" in given:
            given["keepalives_idle"] = int(given["keepalives_idle"])  # type: ignore[assignment]
        return {
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "user": self.user,
            "password": self.password,
            "sslmode": self.sslmode,
            "parameters": rest,
            **given,
        }


# Feast does not tell its SQL registry where feature_store.yaml lies: the URL does, for the plugin.
REPOSITORY_QUERY = "skewless_repository"


def with_repository(url: str, repository: Path) -> str:
    """A registry's URL with the repository that it belongs to; the plugin takes it out again."""
    return f"{url}{'&' if '?' in url else '?'}{REPOSITORY_QUERY}={_quoted(str(repository))}"


def repository_of(url: URL) -> Path | None:
    """The repository that `with_repository` wrote into a registry's URL."""
    named = url.query.get(REPOSITORY_QUERY)
    return Path(named) if isinstance(named, str) else None


class RegistryAddress(CreateEnginePlugin):
    """SQLAlchemy plugin ``skewless``: fills in a registry URL that names no host.

    Feast takes the SQL registry's URL from ``feature_store.yaml`` alone and expands variables
    there without a default; a plugin is SQLAlchemy's own place to complete a URL.
    """

    def update_url(self, url: URL) -> URL:
        """Return ``url`` itself when it names a host, else the address found by the rule."""
        repository = repository_of(url)
        url = url.difference_update_query(["plugin", REPOSITORY_QUERY])
        if url.host:
            return url
        with working_for(repository):
            found = libpq_settings(postgres_url())
        several = "," in found["host"] or "/" in found["host"]
        host = None if several else found.pop("host")
        port = None if several else found.pop("port", None)
        return URL.create(
            url.drivername,
            username=found.pop("user", None),
            password=found.pop("password", None),
            host=host,
            port=None if port is None else int(port),
            database=found.pop("dbname", None),
            query={**found, **url.query},
        )
