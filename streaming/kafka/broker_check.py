"""Broker check: can a client of ours reach the broker, and if not, which setting is the cause.

What it says never holds a value of `SKEWLESS_KAFKA_SETTINGS`, in which passwords stand.
"""

import logging
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from extensions.addresses import project_name
from extensions.asof.computation_loading import read_repository
from extensions.errors import ConfigurationError
from extensions.sources.loading import declared_streams
from streaming.declared_streams import settings_of
from streaming.kafka.client_settings import SETTINGS_VARIABLE, client_settings
from streaming.settings import Settings

PATIENCE_MS = 4_000
_SECONDS = 3.0


@dataclass(frozen=True)
class BrokerCheck:
    """What was found; ``advice`` says what to do where it is not ``ok``."""

    ok: bool
    found: str
    advice: str | None = None


def check_brokers(settings: Settings) -> Iterator[tuple[str, BrokerCheck]]:
    """Check the broker of each declared stream, once for those that share one.

    Yields:
        Which streams read there and where it is, and what was found. Without a stream, the
        environment's own broker.
    """
    contents = read_repository(settings.repo_root)
    if not declared_streams(contents, project_name(settings.repo_root) or ""):
        yield "kafka", check_broker(settings.kafka_bootstrap)
        return
    streams: dict[str, list[str]] = {}
    for each in settings_of(settings):
        streams.setdefault(each.kafka_bootstrap, []).append(each.stream)
    for bootstrap, names in streams.items():
        name = "kafka" if len(streams) == 1 else f"kafka of {', '.join(names)}"
        own = bootstrap != settings.kafka_bootstrap
        yield name, check_broker(bootstrap, streams=names if own else ())


def check_broker(bootstrap: str, *, streams: Sequence[str] = ()) -> BrokerCheck:
    """Connect as every client does, and count the topics.

    Args:
        bootstrap: Its addresses.
        streams: Which streams declare these; none: they are the environment's.
    """
    try:
        settings = client_settings(bootstrap)
    except ConfigurationError as error:
        return BrokerCheck(False, "settings cannot be used", error.message)
    quiet = logging.getLogger("kafka")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # it logs each try; what came of them is said once
    try:
        client = KafkaAdminClient(**settings, bootstrap_timeout_ms=PATIENCE_MS)
        try:
            topics = client.list_topics()
        finally:
            client.close()
    except (KafkaError, OSError) as error:
        return BrokerCheck(False, type(error).__name__, _advice(bootstrap, settings, streams))
    finally:
        quiet.setLevel(level)
    return BrokerCheck(True, f"{len(topics)} topics at {bootstrap}")


def _advice(bootstrap: str, settings: Mapping[str, Any], streams: Sequence[str]) -> str:
    # The client only says that its time is up, whatever the broker told it.
    protocol = settings.get("security_protocol", "PLAINTEXT")
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            conn = socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS)
        except (OSError, ValueError):
            continue
        with conn:
            return _of_an_open_port(address.strip(), conn, host, protocol, settings)
    where = (
        f"kafka_bootstrap_servers of {', '.join(streams)}"
        if streams
        else "SKEWLESS_KAFKA_BOOTSTRAP"
    )
    return f"Nothing answers at {bootstrap}: start Kafka, or check {where}."


def _of_an_open_port(
    address: str, conn: socket.socket, host: str, protocol: str, settings: Mapping[str, Any]
) -> str:
    """Something listens there: does it speak the protocol that is set?"""
    if protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
        user = ", and the user" if protocol == "SASL_PLAINTEXT" else ""
        return (
            f"{address} is open but does not answer as a Kafka broker without TLS: check the "
            f"address, and security_protocol{user} in the file that {SETTINGS_VARIABLE} names."
        )
    context = ssl.create_default_context(cafile=settings.get("ssl_cafile"))
    context.check_hostname = bool(settings.get("ssl_check_hostname", True))
    try:
        context.wrap_socket(conn, server_hostname=host.strip("[]")).close()
    except ssl.SSLCertVerificationError as error:
        return (
            f"The certificate of {address} is not trusted ({error.verify_message}): ssl_cafile in "
            f"the file that {SETTINGS_VARIABLE} names must hold the authority that signed it."
        )
    except (ssl.SSLError, OSError):
        return (
            f"{address} does not speak TLS: security_protocol {protocol} in the file that "
            f"{SETTINGS_VARIABLE} names is for another port."
        )
    if protocol == "SASL_SSL":
        return (
            f"{address} refuses the user: check sasl_mechanism and the user and password that "
            f"belong to it in the file that {SETTINGS_VARIABLE} names."
        )
    return (
        f"{address} refuses the client: check ssl_certfile, ssl_keyfile and security_protocol in "
        f"the file that {SETTINGS_VARIABLE} names."
    )
