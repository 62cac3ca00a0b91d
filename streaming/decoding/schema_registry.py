"""A client of schema registries that speak Confluent's HTTP API (Confluent, Apicurio, Karapace).

``GET /schemas/ids/{id}`` and, for referenced schemas, ``GET /subjects/{s}/versions/{v}``. The
number of a schema never changes its meaning, so an answer is kept for good; that there is none, for
seconds.
"""

import base64
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from extensions.errors import ConfigurationError, UnavailableError
from streaming.kafka.message_decoder import Reason, RejectedError

REGISTRY_VARIABLE = "SKEWLESS_SCHEMA_REGISTRY"
# Of a stream whose messages have no header, although the environment names a registry.
NO_REGISTRY = "none"
_TRIES = 3
_PAUSE_SECONDS = 0.2
_UNKNOWN_SECONDS = 10.0
_LONGEST_ANSWER = 4 << 20
_MOST_REFERENCES = 100
_UNAVAILABLE = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RegisteredSchema:
    """A schema's text and kind (``AVRO``, ``PROTOBUF``, ``JSON``).

    ``references``: the texts of the schemas that it refers to, each after those it refers to.
    """

    text: str
    kind: str
    references: tuple[str, ...]


class SchemaRegistry:
    """One registry. Not shared between threads.

    Args:
        url: ``http(s)://[user:password@]host[:port][/path]``.
        timeout: Seconds for each of three tries.

    Raises:
        ConfigurationError: the URL is none.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                "The schema registry's address must read like http://host:8081 "
                f"(tag schema_registry, or {REGISTRY_VARIABLE})."
            )
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self._timeout = timeout
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._known: dict[int, RegisteredSchema] = {}
        self._unknown: dict[int, float] = {}

    @classmethod
    def of(cls, url: str | None) -> "SchemaRegistry | None":
        """The registry that a stream names, else the environment's; None: there is none."""
        named = url or os.environ.get(REGISTRY_VARIABLE)
        return cls(named) if named and named != NO_REGISTRY else None

    def schema(self, number: int) -> RegisteredSchema:
        """The schema of that number.

        Raises:
            RejectedError: the registry knows no such schema.
            UnavailableError: it does not answer, or not like a registry; its cause is an outage.
        """
        if number in self._known:
            return self._known[number]
        if time.monotonic() < self._unknown.get(number, 0.0):
            raise _no_such(number)
        found = self._get(f"/schemas/ids/{number}")
        if found is None:
            if len(self._unknown) > 10_000:
                self._unknown.clear()
            self._unknown[number] = time.monotonic() + _UNKNOWN_SECONDS
            raise _no_such(number)
        references: dict[tuple[str, int], str] = {}
        self._collect(found, references, number)
        schema = RegisteredSchema(
            text=str(found["schema"]),
            kind=str(found.get("schemaType") or "AVRO"),
            references=tuple(references.values()),
        )
        self._known[number] = schema
        return schema

    def _collect(
        self, schema: dict[str, Any], found: dict[tuple[str, int], str], number: int
    ) -> None:
        """The schemas that one refers to, depth first."""
        for reference in schema.get("references") or ():
            place = (str(reference["subject"]), int(reference["version"]))
            if place in found:
                continue
            if len(found) >= _MOST_REFERENCES:
                raise RejectedError(
                    Reason.UNKNOWN_SCHEMA, f"schema {number} refers to too many others"
                )
            inner = self._get(f"/subjects/{quote(place[0], safe='')}/versions/{place[1]}")
            if inner is None:
                raise RejectedError(
                    Reason.UNKNOWN_SCHEMA, f"schema {number} refers to one that is not there"
                )
            found[place] = ""  # its place, should it be referred to in a circle
            self._collect(inner, found, number)
            del found[place]
            found[place] = str(inner["schema"])

    def _get(self, path: str) -> dict[str, Any] | None:
        """An answer of the API; None: it says that there is no such schema."""
        for attempt in range(_TRIES):
            try:
                return self._once(path)
            except UnavailableError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_SECONDS * 2**attempt)
        raise AssertionError  # the last try returned or raised

    def _once(self, path: str) -> dict[str, Any] | None:
        request = urllib.request.Request(self._url + path, headers=self._headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                return self._object(answer.read(_LONGEST_ANSWER))
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read(_LONGEST_ANSWER)
            if status == 404 and _error_code(body) // 100 == 404:
                return None
            # Whatever is wrong with the registry, the address or the user: not the message.
            raise self._unavailable(f"HTTP {status}") from ConnectionError(f"HTTP {status}")
        except urllib.error.URLError as error:
            cause = _outage_of(error.reason)
            raise self._unavailable(str(cause) or type(cause).__name__) from cause
        except (OSError, http.client.HTTPException) as error:
            cause = _outage_of(error)
            raise self._unavailable(str(cause) or type(cause).__name__) from cause

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
            why = "what answers is no schema registry"
            raise self._unavailable(why) from ConnectionError(why)
        return found

    def _unavailable(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"The schema registry at {self._url} does not answer ({why}): check that it runs, its "
            f"address and its user (tag schema_registry, or {REGISTRY_VARIABLE})."
        )


def _outage_of(cause: object) -> OSError:
    """The failure as one that `extensions.failure_classification` knows for an outage."""
    if isinstance(cause, ConnectionError | TimeoutError):
        return cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConnectionError("its certificate is not trusted: SSL_CERT_FILE names those that are")
    return ConnectionError(type(cause).__name__)


def _error_code(body: bytes) -> int:
    try:
        found = json.loads(body)
        return int(found["error_code"])
    except (ValueError, KeyError, TypeError):
        return 0


def _no_such(number: int) -> RejectedError:
    return RejectedError(Reason.UNKNOWN_SCHEMA, f"the registry has no schema {number}")
