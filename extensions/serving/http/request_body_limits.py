"""Admission of a request: checks of path, size and encoding, and bounded reading of the body.

Cheap checks come first (path, declared size, encoding), then authorisation, then the body; only a
request whose body is complete takes one of the places of requests in progress.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Self

import orjson

from extensions.serving.http.request_validation import RefusedError, check_unique_keys
from extensions.serving.http.unique_keys import known_colons
from extensions.serving.routes.feast_app import Receive
from extensions.serving.settings import Settings

# Open to everybody: what operators and monitoring read.
STATUS = frozenset(("/health", "/ready", "/metrics"))
# Open to everybody, unless turned off: the OpenAPI documents, which show no feature's value.
DOCUMENTS = frozenset(("/openapi.json", "/v1/openapi.json"))
# The metrics label of unknown routes.
UNKNOWN_ROUTE = "other"
READ_ROUTES = ("/get-online-features", "/search", "/retrieve-online-documents")
WRITE_ROUTES = ("/push", "/write-to-online-store")
SEARCH_PREFIX = "/v1/vector_stores/"


class DisconnectedError(Exception):
    """The client disconnected, or was too slow and was answered by the connection."""


class BodyLimiter:
    """Limits the size of each request body and of all bodies in memory. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._most, self._most_held = settings.max_body, settings.max_bodies
        self.held = 0
        # Incomplete bodies, in the order in which they began.
        self.reading: dict[RequestBody, None] = {}

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Check the headers that describe the body.

        Raises:
            RefusedError: 413 for a body that would be too large, 415 for one that is compressed.
        """
        length = headers.get(b"content-length")
        if length is not None and (len(length) > 18 or int(length) > self._most):
            raise self._too_large()
        coding = headers.get(b"content-encoding")
        if coding is not None and coding.strip().lower() not in (b"", b"identity"):
            raise RefusedError(
                415, "A body may not be compressed: send it without Content-Encoding.",
                "Content-Encoding",
            )  # fmt: skip

    def room(self) -> "RequestBody":
        """A context manager for one body; releases its bytes at the end."""
        return RequestBody(self)

    def add(self, body: "RequestBody", more: int) -> None:
        """Count received bytes of a body.

        Where all bodies together exceed the limit, the largest incomplete one is aborted (of two,
        the one begun first), so that bodies that never end do not block others.

        Raises:
            RefusedError: 413 where this body is too large, 503 where it is the one to abort.
        """
        if body.size + more > self._most:
            raise self._too_large()
        body.size += more
        self.held += more
        while self.held > self._most_held:
            largest = max(self.reading, key=lambda reading: reading.size, default=body)
            if largest is body:
                raise RefusedError(503, "The server is busy.")
            largest.abort()

    def release(self, body: "RequestBody") -> None:
        """Release a body's bytes."""
        self.held -= body.size
        body.size = 0

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"A body may have at most {self._most} bytes.")


class RequestBody:
    """One body, while it is read and in use."""

    __slots__ = ("_bodies", "_task", "size")

    def __init__(self, bodies: BodyLimiter) -> None:
        self._bodies = bodies
        self._task: asyncio.Task[Any] | None = None
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.held -= self.size

    async def read(self, receive: Receive) -> bytes:
        """Read the whole body.

        Raises:
            RefusedError: 413 or 503 (see `BodyLimiter.add`).
            DisconnectedError: the client went away.
        """
        message = await receive()
        if message["type"] == "http.request" and not message["more_body"]:
            body: bytes = message["body"]
            self._bodies.add(self, len(body))  # the usual case: one message
            return body
        self._task, self._bodies.reading[self] = asyncio.current_task(), None
        try:
            return await self._rest(message, receive)
        except asyncio.CancelledError:
            if self._task is not None:  # cancelled for another reason
                raise
            if task := asyncio.current_task():
                task.uncancel()
            raise RefusedError(503, "The server is busy.") from None
        finally:
            self._bodies.reading.pop(self, None)

    async def _rest(self, message: Any, receive: Receive) -> bytes:
        pieces: list[bytes] = []
        while True:
            if message["type"] != "http.request":
                raise DisconnectedError
            if piece := message.get("body", b""):
                self._bodies.add(self, len(piece))
                pieces.append(piece)
            if not message.get("more_body"):
                return b"".join(pieces)
            message = await receive()

    def abort(self) -> None:
        """Stop reading and release the bytes."""
        task, self._task = self._task, None
        self._bodies.reading.pop(self, None)
        self._bodies.release(self)
        if task is not None:
            task.cancel()


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the body that was already read, then what follows."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def check_feast_body(path: str, body: bytes, settings: Settings) -> Any:
    """Check a request's body to one of Feast's routes: its keys, and the amounts it asks for.

    Returns:
        The parsed JSON body; None where it is no JSON object or has no such amounts.

    Raises:
        RefusedError: 422, naming the field that holds too much, or the key that stands twice; 400,
            the body is nested too deeply.
    """
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            read = json.loads(body)  # takes NaN, and so does Feast
        except (ValueError, RecursionError):
            read = None
    check_unique_keys(body, known_colons(read, body))
    reads, writes = path in READ_ROUTES, path in WRITE_ROUTES
    if not isinstance(read, dict) or not (reads or writes or path.startswith(SEARCH_PREFIX)):
        return None
    if writes:
        _check_limit(_longest(read.get("df")), settings.max_rows, "df", "rows")
        return read
    rows = _longest(read.get("entities"))
    _check_limit(rows, settings.max_items, "entities", "rows")
    for field in ("top_k", "max_num_results"):
        if isinstance(read.get(field), int):
            _check_limit(read[field], settings.max_items, field, "results")
    features = read.get("features")
    if isinstance(features, list):
        _check_limit(len(features), settings.max_references, "features", "references")
        if len(features) * rows > settings.max_values:
            raise RefusedError(
                422, f"{len(features)} features of {rows} rows are more than "
                f"{settings.max_values} values: ask for them in parts.", "features",
            )  # fmt: skip
    return read


def _longest(columns: Any) -> int:
    """The length of the longest column."""
    if not isinstance(columns, dict):
        return 0
    lengths = (len(column) for column in columns.values() if isinstance(column, (list, dict)))
    return max(lengths, default=0)


def _check_limit(amount: int, most: int, field: str, what: str) -> None:
    if amount > most:
        raise RefusedError(422, f"{field} may have at most {most} {what}.", field)
