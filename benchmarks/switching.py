"""Ranking requests while versions are promoted and rolled back: who was served what, and when."""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import psutil

# A reply's versions: (of the user's view, of the items' view).
State = tuple[int, int]
PATIENCE = 5.0
# Seconds until every worker listens and has taken a connection.
STARTED_WITHIN = 120.0


@dataclass(frozen=True)
class Asked:
    """What is ranked, and what each version of both views serves for it.

    ``user_values``: of the user's feature; ``item_values``: of each item's, in the order asked.
    """

    user: int
    items: Sequence[int]
    user_view: str
    user_feature: str
    user_values: Mapping[int, Any]
    item_view: str
    item_feature: str
    item_values: Mapping[int, Sequence[Any]]


@dataclass(frozen=True)
class Reply:
    """One answer. Times are `time.monotonic` seconds; ``whole``: every value is of ``state``."""

    asked: float
    answered: float
    state: State | None
    whole: bool


@dataclass
class Connection:
    """One client: a request at a time, one connection for all."""

    replies: list[Reply] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    # When each of them was told, by `time.monotonic`.
    failed_at: list[float] = field(default_factory=list)
    # Of the client's end; None while there is no connection.
    port: int | None = None
    renew: threading.Event = field(default_factory=threading.Event)

    def fail(self, why: str) -> None:
        """Note a request that was not answered."""
        self.failures.append(why)
        self.failed_at.append(time.monotonic())

    @property
    def last(self) -> State | None:
        """The versions of the latest answer."""
        return self.replies[-1].state if self.replies else None


@dataclass(frozen=True)
class Switch:
    """One move, over all connections: seconds from its commit to each one's first new answer
    (``seen``), and to the last old answer of any (``old_until``).
    """

    seen: tuple[float, ...]
    old_until: float


class Load:
    """Ranks until it is left. ``pause``: seconds between an answer and the next question."""

    def __init__(self, port: int, asked: Asked, connections: int, pause: float = 0.002) -> None:
        self._port, self._asked, self._pause = port, asked, pause
        self.connections = [Connection() for _ in range(connections)]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(each,), daemon=True)
            for each in self.connections
        ]
        self._body = json.dumps(
            {"userId": asked.user, "itemIds": list(asked.items), "context": {"requestHour": 3}}
        ).encode()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def cover(self, server: int) -> list[int]:
        """Connect anew until each worker of the process ``server`` has a connection of ours.

        The kernel gives a connection to whichever worker takes it first, and one that starts
        later has none. Returns how many each worker has.
        """
        deadline = time.monotonic() + STARTED_WITHIN
        while True:
            held = self._held(server)
            if held and min(held) > 0 and sum(held) == len(self.connections):
                return held
            assert time.monotonic() < deadline, f"connections by worker: {held}"
            if sum(held) == len(self.connections):
                for each in random.sample(self.connections, len(self.connections) // 2):
                    each.renew.set()
            time.sleep(0.3)

    def _held(self, server: int) -> list[int]:
        ours = {each.port for each in self.connections}
        return [
            sum(
                1
                for one in worker.net_connections("tcp")
                if one.raddr and one.laddr.port == self._port and one.raddr.port in ours
            )
            for worker in psutil.Process(server).children()
        ]

    def switch(self, move: Callable[[], Any], to: State) -> Switch:
        """Move a pointer, and wait until every connection has been answered by the new one."""
        places = [len(each.replies) for each in self.connections]
        move()
        committed = time.monotonic()
        self.until(to)
        firsts, last_old = [], 0.0
        for place, each in zip(places, self.connections, strict=True):
            since = each.replies[place:]
            first = next(reply for reply in since if reply.state == to)
            firsts.append(max(0.0, first.answered - committed))
            old = [reply.answered - committed for reply in since if reply.state != to]
            last_old = max(last_old, *old, 0.0)
        return Switch(tuple(firsts), last_old)

    def until(self, state: State) -> None:
        """Wait until every connection's latest answer is of these versions."""
        deadline = time.monotonic() + PATIENCE
        while any(each.last != state for each in self.connections):
            assert time.monotonic() < deadline, f"{state} is not served everywhere"
            time.sleep(0.005)

    @property
    def failed(self) -> list[str]:
        """What went wrong, of all requests."""
        return [why for each in self.connections for why in each.failures]

    @property
    def mixed(self) -> int:
        """Answers of which some value was not of the versions that they name."""
        return sum(not reply.whole for each in self.connections for reply in each.replies)

    @property
    def answered(self) -> int:
        """All answers."""
        return sum(len(each.replies) for each in self.connections)

    def _run(self, mine: Connection) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._stop.is_set():
            if mine.renew.is_set():
                mine.renew.clear()
                client.close()
                mine.port = None
            asked = time.monotonic()
            try:
                client.request(
                    "POST", "/v1/features/rank?include=meta", self._body,
                    {"content-type": "application/json"},
                )  # fmt: skip
                answer = client.getresponse()
                body = answer.read()
                mine.port = client.sock.getsockname()[1] if client.sock else None
                if answer.status != 200:
                    mine.fail(f"{answer.status} {body[:200]!r}")
                    continue
                mine.replies.append(self._reply(asked, json.loads(body)))
            except (OSError, http.client.HTTPException) as error:
                mine.fail(repr(error))
                client.close()
            time.sleep(self._pause)
        client.close()

    def _reply(self, asked: float, body: Any) -> Reply:
        what = self._asked
        state = (body["meta"][what.user_view]["version"], body["meta"][what.item_view]["version"])
        user = body["userFeatures"][what.user_feature]
        items = [item["itemFeatures"][what.item_feature] for item in body["items"]]
        whole = user == what.user_values[state[0]] and items == list(what.item_values[state[1]])
        return Reply(asked, time.monotonic(), state, whole)
