"""Settings of Kafka's clients: TLS and SASL, by the names that kafka-python gives them.

``SKEWLESS_KAFKA_SETTINGS`` names a file (YAML or JSON) of settings that every client gets, the
consumer, the producers and the administration alike. ``${VARIABLE}`` stands for a variable of the
environment, so that no secret need be in the file::

    security_protocol: SASL_SSL
    sasl_mechanism: SCRAM-SHA-512
    sasl_plain_username: skewless
    sasl_plain_password: ${KAFKA_PASSWORD}
    ssl_cafile: /etc/ssl/kafka-ca.pem
    brokers:
      clicks.example:9092:
        security_protocol: PLAINTEXT

Under ``brokers``, a cluster that a stream names in its ``kafka_bootstrap_servers`` has settings of
its own, as written there: it gets those, and none of the common ones.
"""

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from extensions.errors import ConfigurationError
from extensions.suggestions import did_you_mean

SETTINGS_VARIABLE = "SKEWLESS_KAFKA_SETTINGS"
_BROKERS = "brokers"
_PREFIXES = ("security_", "ssl_", "sasl_", "socks5_")
# Objects of Python, which no file can hold.
_OBJECTS = frozenset({"ssl_context", "sasl_oauth_token_provider"})
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILES = frozenset({"ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"})
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


def client_settings(bootstrap: str) -> dict[str, Any]:
    """Keyword arguments for any client: the brokers, and what the environment's file says.

    Raises:
        ConfigurationError: the file cannot be read, names a setting that there is not, or a
            variable that is not set. The message never holds a value of the file.
    """
    found: dict[str, Any] = {"bootstrap_servers": bootstrap}
    path = os.environ.get(SETTINGS_VARIABLE)
    if path:
        found |= _read(Path(path), bootstrap)
    return found


def known_settings() -> frozenset[str]:
    """The names that the file may hold: what all three clients take."""
    clients = (KafkaConsumer, KafkaProducer, KafkaAdminClient)
    shared = set.intersection(*(set(client.DEFAULT_CONFIG) for client in clients))
    return frozenset(name for name in shared if name.startswith(_PREFIXES)) - _OBJECTS


def _read(path: Path, bootstrap: str) -> dict[str, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigurationError(
            f"{SETTINGS_VARIABLE} names {path}, which cannot be read: {why}."
        ) from None
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own message repeats the line, in which a password may stand.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise ConfigurationError(
            f"{path} ({SETTINGS_VARIABLE}) is neither YAML nor JSON{where}."
        ) from None
    if settings is None:
        settings = {}
    if not isinstance(settings, Mapping):
        raise ConfigurationError(
            f"{path} ({SETTINGS_VARIABLE}) must hold settings by name, such as "
            "security_protocol: SASL_SSL."
        )
    settings = _of_broker(path, settings, bootstrap)
    known = known_settings()
    for name in settings:
        if name not in known:
            raise ConfigurationError(
                f"{path} ({SETTINGS_VARIABLE}) has {name!r}, which is no setting of a client's "
                f"security: those begin with security_, ssl_, sasl_ or socks5_."
                f"{did_you_mean(str(name), known)}"
            )
    found = {str(name): _expanded(path, str(name), value) for name, value in settings.items()}
    protocol = found.get("security_protocol", "PLAINTEXT")
    if protocol not in _PROTOCOLS:
        raise ConfigurationError(
            f"security_protocol in {path} ({SETTINGS_VARIABLE}) must be one of "
            f"{', '.join(_PROTOCOLS)}."
        )
    for name in _FILES & found.keys():
        _check_file(path, name, found[name])
    return found


def _of_broker(path: Path, settings: Mapping[str, Any], bootstrap: str) -> Mapping[str, Any]:
    """The cluster's own settings, where the file has some; else the common ones.

    Raises:
        ConfigurationError: ``brokers`` does not hold settings by address.
    """
    brokers = settings.get(_BROKERS, {})
    if not isinstance(brokers, Mapping) or not all(
        isinstance(own, Mapping) for own in brokers.values()
    ):
        raise ConfigurationError(
            f"{_BROKERS} in {path} ({SETTINGS_VARIABLE}) must hold settings by address, such as "
            "clicks.example:9092: {security_protocol: PLAINTEXT}."
        )
    own: dict[frozenset[str], Mapping[str, Any]] = {
        _addresses(str(name)): each for name, each in brokers.items()
    }
    common = {name: value for name, value in settings.items() if name != _BROKERS}
    return own.get(_addresses(bootstrap), common)


def _addresses(bootstrap: str) -> frozenset[str]:
    return frozenset(address.strip() for address in bootstrap.split(","))


def _check_file(path: Path, name: str, value: Any) -> None:
    """That a file of certificates can be read; the client would say so in the middle of its work.

    Raises:
        ConfigurationError: it cannot, or holds none.
    """
    if value is None:
        return
    try:
        with Path(str(value)).open("rb") as file:
            file.read(1)
        if name == "ssl_cafile":
            ssl.create_default_context(cafile=str(value))
    except ssl.SSLError:
        why = "holds no certificate"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    else:
        return
    raise ConfigurationError(f"{name} in {path} ({SETTINGS_VARIABLE}) names a file that {why}.")


def _expanded(path: Path, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        if value is None or isinstance(value, bool | int | float):
            return value
        raise ConfigurationError(f"{name} in {path} ({SETTINGS_VARIABLE}) must be one value.")

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigurationError(
                f"{name} in {path} ({SETTINGS_VARIABLE}) stands for the variable {match[1]}, which "
                "is not set."
            )
        return found

    return _VARIABLE.sub(variable, value)
