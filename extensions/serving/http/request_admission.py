"""Admission of a request: its path, size, encoding and body, before anything is made of it.

The order is the protection: what costs nothing comes first (path, declared size, encoding), then
who asks, then the body, and only a whole body takes one of the places of requests in hand.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Self

import orjson

from extensions.serving.http.request_validation import RefusedError
from extensions.serving.routes.feast_app import Receive, Scope
from extensions.serving.routes.feature_routes import ANY, RANK, USER
from extensions.serving.settings import Settings

# Open to everybody: what operators and monitoring read.
STATUS = frozenset(("/health", "/ready", "/metrics"))
# Open to everybody, unless turned off: the OpenAPI documents, which show no feature's value.
DOCUMENTS = frozenset(("/openapi.json", "/v1/openapi.json"))
# The label of routes that there are not.
OTHER = "other"
READS = ("/get-online-features", "/search", "/retrieve-online-documents")
WRITES = ("/push", "/write-to-online-store")
SEARCHES = "/v1/vector_stores/"


class DisconnectedError(Exception):
    """The client has gone, or was too slow and has been answered by the connection."""


def route_of(scope: Scope) -> str:
    """The route's name, for paths of ours; other paths as they are.

    Raises:
        RefusedError: 404, for a path whose meaning depends on who decodes it.
    """
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or path.encode()
    # Only an id may hold an encoded slash: elsewhere it would make one path out of another.
    odd = b"%" in raw and not raw.startswith(USER.encode())
    if odd and (b"%2f" in raw.lower() or path.startswith(USER)):
        raise RefusedError(
            404, "There is no such route: outside of an id, paths are not percent-encoded."
        )
    if path.startswith(USER):
        return USER
    if path in (RANK, ANY):
        return path
    return "/v1" if path.startswith(ANY) else path


class Bodies:
    """Reads request bodies, bounded each and all together. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._most, self._most_held = settings.max_body, settings.max_bodies
        self.held = 0
        # Those that have not come to their end, in the order in which they began.
        self.reading: dict[Body, None] = {}

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Look at what the headers promise.

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

    def room(self) -> "Body":
        """Room for one body, given back in the end (a context manager)."""
        return Body(self)

    def take(self, body: "Body", more: int) -> None:
        """Count bytes that came for a body.

        Where all bodies together become too many, the largest that is still being read gives way
        (of two, the one begun first): bodies that never end do not keep the others out.

        Raises:
            RefusedError: 413 where this body is too large, 503 where it has to give way.
        """
        if body.size + more > self._most:
            raise self._too_large()
        body.size += more
        self.held += more
        while self.held > self._most_held:
            largest = max(self.reading, key=lambda reading: reading.size, default=body)
            if largest is body:
                raise RefusedError(503, "The server is busy.")
            largest.give_way()

    def give_back(self, body: "Body") -> None:
        """Count a body's bytes no more."""
        self.held -= body.size
        body.size = 0

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"A body may have at most {self._most} bytes.")


class Body:
    """One body, while it is read and in hand."""

    __slots__ = ("_bodies", "_task", "size")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._task: asyncio.Task[Any] | None = None
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.held -= self.size

    async def read(self, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            RefusedError: 413 or 503 (see `Bodies.take`).
            DisconnectedError: it does not come to its end.
        """
        message = await receive()
        if message["type"] == "http.request" and not message["more_body"]:
            body: bytes = message["body"]
            self._bodies.take(self, len(body))  # the usual case: it came in one piece
            return body
        self._task, self._bodies.reading[self] = asyncio.current_task(), None
        try:
            return await self._rest(message, receive)
        except asyncio.CancelledError:
            if self._task is not None:  # by somebody else, for another reason
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
                self._bodies.take(self, len(piece))
                pieces.append(piece)
            if not message.get("more_body"):
                return b"".join(pieces)
            message = await receive()

    def give_way(self) -> None:
        """End the reading, in favour of others."""
        task, self._task = self._task, None
        self._bodies.reading.pop(self, None)
        self._bodies.give_back(self)
        if task is not None:
            task.cancel()


def replay(body: bytes, receive: Receive) -> Receive:
    """A function that gives the whole body once, then what comes after it."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def check_amounts(path: str, body: bytes, settings: Settings) -> Any:
    """Look at how much a request to one of Feast's routes asks for, before Feast does.

    Returns:
        The body, read as JSON; None where it is none, or none that has such amounts.

    Raises:
        RefusedError: 422, naming the field that holds too much.
    """
    reads, writes = path in READS, path in WRITES
    if not (reads or writes or path.startswith(SEARCHES)):
        return None
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            read = json.loads(body)  # takes NaN, and so does Feast
        except (ValueError, RecursionError):
            return None
    if not isinstance(read, dict):
        return None
    if writes:
        _bound(_longest(read.get("df")), settings.max_rows, "df", "rows")
        return read
    rows = _longest(read.get("entities"))
    _bound(rows, settings.max_items, "entities", "rows")
    for field in ("top_k", "max_num_results"):
        if isinstance(read.get(field), int):
            _bound(read[field], settings.max_items, field, "results")
    features = read.get("features")
    if isinstance(features, list):
        _bound(len(features), settings.max_references, "features", "references")
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


def _bound(amount: int, most: int, field: str, what: str) -> None:
    if amount > most:
        raise RefusedError(422, f"{field} may have at most {most} {what}.", field)
