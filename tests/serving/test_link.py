"""The link's replies: whoever takes them off the socket, each goes to whom it belongs."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest
import uvloop

from extensions.serving.features.redis_connection import (
    BUSY_POLL_SECONDS,
    DEAD_AFTER,
    PipelinedConnection,
    UnavailableError,
)

Answer = Callable[[socket.socket, list[Any]], None]


class FakeRedis:
    """Answers each command by ``answer``, on a thread; counts connections, and pieces of data."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.connections, self.received = answer, 0, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                taken, _ = self.listening.accept()
            except OSError:
                return
            self.connections += 1
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        reader = hiredis.Reader()
        with taken:
            while data := taken.recv(1 << 16):
                self.received += 1
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    if command[0] in (b"PING", b"SELECT"):
                        taken.sendall(b"+PONG\r\n")
                        continue
                    try:
                        self.answer(taken, command)
                    except ConnectionAbortedError:
                        return


@pytest.fixture
def fake() -> Iterator[Callable[[Answer], FakeRedis]]:
    made: list[FakeRedis] = []

    def start(answer: Answer) -> FakeRedis:
        made.append(FakeRedis(answer))
        return made[-1]

    yield start
    for one in made:
        one.listening.close()


def linked(
    server: FakeRedis, work: Callable[[PipelinedConnection], Any], deadline: float = 5
) -> Any:
    async def run() -> Any:
        link = PipelinedConnection(server.url, deadline)
        await link.start()
        try:
            return await work(link)
        finally:
            await link.close()

    return uvloop.run(run())


def echo(taken: socket.socket, command: list[Any]) -> None:
    taken.sendall(b"$%d\r\n%b\r\n" % (len(command[1]), command[1]))


def hurried(link: PipelinedConnection, seconds: float = 5) -> bool:
    """Look again and again, without the loop having a turn."""
    until = time.monotonic() + seconds
    while not link.busy_poll():
        if time.monotonic() > until:
            return False
    return True


async def made_again(link: PipelinedConnection) -> None:
    while not link.connected:  # noqa: ASYNC110 - a link tells nobody
        await asyncio.sleep(0.01)
    assert await link.run([("GET", "b")]) == [b"b"]


def test_replies_taken_by_looking_go_to_whom_they_belong(fake: Any) -> None:
    async def work(link: PipelinedConnection) -> None:
        for i in range(200):
            first = link.run([("GET", f"{i}"), ("GET", "x" * (i * 997 % 70_000))])
            second = link.run([("GET", f"{-i}")])
            if i % 3 == 0:
                assert hurried(link)
                assert first.done()
                assert second.done()
            elif i % 3 == 1:
                link.busy_poll()
            assert await second == [b"%d" % -i]
            assert await first == [b"%d" % i, b"x" * (i * 997 % 70_000)]
        assert link.busy_poll()  # nothing is outstanding

    linked(fake(echo), work)


def test_a_reply_in_pieces_is_put_together_by_both(fake: Any) -> None:
    def slowly(taken: socket.socket, command: list[Any]) -> None:
        for octet in b"$%d\r\n%b\r\n" % (len(command[1]), command[1]):
            taken.sendall(bytes([octet]))
            time.sleep(0.002)

    async def work(link: PipelinedConnection) -> None:
        for word in ("pieces", "of", "eight"):
            coming = link.run([("GET", word)])
            while not coming.done():
                link.busy_poll()
                await asyncio.sleep(0.001)
            assert await coming == [word.encode()]

    linked(fake(slowly), work)


def test_who_is_slow_is_not_looked_at_for_long(fake: Any) -> None:
    def late(taken: socket.socket, command: list[Any]) -> None:
        time.sleep(0.05)
        echo(taken, command)

    async def work(link: PipelinedConnection) -> None:
        link._usual_seconds = 0.0  # as after quick replies, which a busy machine may not give
        assert link.answers_quickly
        coming = link.run([("GET", "a")])
        began = time.thread_time()
        assert not link.busy_poll()
        assert time.thread_time() - began < BUSY_POLL_SECONDS + 0.02
        assert await coming == [b"a"]
        assert not link.answers_quickly

    linked(fake(late), work)


def test_a_connection_that_ends_while_it_is_looked_at_is_made_again(fake: Any) -> None:
    def leave(taken: socket.socket, command: list[Any]) -> None:
        if command[1] == b"go":
            taken.sendall(b"$5\r\nhal")
            raise ConnectionAbortedError
        echo(taken, command)

    async def work(link: PipelinedConnection) -> None:
        for _ in range(3):
            coming = link.run([("GET", "go")])
            time.sleep(0.05)  # noqa: ASYNC251 - the loop is to have no turn
            assert not link.busy_poll()
            with pytest.raises(UnavailableError):
                await coming
            assert not link.answers_quickly
            assert link.busy_poll()
            await made_again(link)

    server = fake(leave)
    linked(server, work)
    assert server.connections == 4


def test_a_reply_that_comes_after_the_deadline_is_nobody_elses(fake: Any) -> None:
    def late(taken: socket.socket, command: list[Any]) -> None:
        if command[1] == b"late":
            time.sleep(0.1)
        echo(taken, command)

    async def work(link: PipelinedConnection) -> None:
        with pytest.raises(UnavailableError):
            await link.run([("GET", "late")])
        again = link.run([("GET", "next")])
        assert hurried(link)
        assert await again == [b"next"]

    linked(fake(late), work, deadline=0.03)


def test_what_is_no_reply_ends_the_connection(fake: Any) -> None:
    def babble(taken: socket.socket, command: list[Any]) -> None:
        if command[1] == b"go":
            taken.sendall(b"?what\r\n")
        else:
            echo(taken, command)

    async def work(link: PipelinedConnection) -> None:
        for look in (True, False):
            coming = link.run([("GET", "go")])
            if look:
                time.sleep(0.02)  # noqa: ASYNC251 - the loop is to have no turn
                assert not link.busy_poll()
            with pytest.raises(UnavailableError):
                await coming
            await made_again(link)

    server = fake(babble)
    linked(server, work)
    assert server.connections == 3


def test_a_request_after_a_pause_has_as_long_as_any(fake: Any) -> None:
    """The pause is nobody's silence: the server owes a reply from the request on."""

    def late(taken: socket.socket, command: list[Any]) -> None:
        time.sleep(0.6 * DEAD_AFTER)
        echo(taken, command)

    server = fake(late)

    async def work(link: PipelinedConnection) -> None:
        for pause in (0.9, 1.0, 1.1, 1.2):
            await asyncio.sleep(pause * DEAD_AFTER)
            assert await link.run([("GET", "a")]) == [b"a"]

    linked(server, work)
    assert server.connections == 1


def test_the_commands_of_one_turn_are_one_write(fake: Any) -> None:
    server = fake(echo)

    async def work(link: PipelinedConnection) -> None:
        for turn in range(1, 6):
            before = server.received
            asked = [link.run([("GET", f"{turn} {i}"), ("GET", f"{i}")]) for i in range(30)]
            for i, coming in enumerate(asked):
                assert await coming == [b"%d %d" % (turn, i), b"%d" % i]
            assert server.received == before + 1

    linked(server, work)


def test_who_is_alone_need_not_wait_for_the_turn_to_end(fake: Any) -> None:
    server = fake(echo)

    async def work(link: PipelinedConnection) -> None:
        before = server.received
        coming = link.run([("GET", "a")])
        link.flush()
        until = time.monotonic() + 5
        while server.received == before and time.monotonic() < until:
            time.sleep(0.001)  # noqa: ASYNC251 - the loop is to have no turn
        assert server.received == before + 1
        assert await coming == [b"a"]
        link.flush()  # nothing is left

    linked(server, work)


def test_commands_that_were_not_written_are_not_sent_to_the_next_connection(fake: Any) -> None:
    server = fake(echo)

    async def work(link: PipelinedConnection) -> None:
        coming = link.run([("GET", "lost")])
        link.connection_lost(None)
        with pytest.raises(UnavailableError):
            await coming
        await made_again(link)

    linked(server, work)
