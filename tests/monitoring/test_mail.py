"""Alert mails: a password goes to a server that proves who it is, or nowhere."""

import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string
from pathlib import Path

import pytest
import trustme

from extensions.errors import SkewlessError
from monitoring.alerts.notifiers import EMAIL, ChannelError, Message, channels

MESSAGE = Message(7, "opened", "made", "critical", "Critical drift of made", ("a line",), "", "k1")


class Server(socketserver.ThreadingTCPServer):
    """As much of SMTP as a mail needs; what it was told is in ``lines``."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext | None, *, starttls: bool, from_start: bool) -> None:
        self.lines: list[str] = []
        self.secret: list[str] = []  # what came over TLS
        self.context, self.starttls, self.from_start = context, starttls, from_start
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        pass


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        socket, tls = self.request, self.server.from_start
        if tls and self.server.context:
            socket = self.server.context.wrap_socket(socket, server_side=True)
        file = socket.makefile("rwb", buffering=0)
        file.write(b"220 here\r\n")
        while line := file.readline():
            text = line.decode().strip()
            (self.server.secret if tls else self.server.lines).append(text)
            if text.upper().startswith("EHLO"):
                offers = [b"here", b"AUTH PLAIN", *([b"STARTTLS"] if self.server.starttls else [])]
                file.write(b"".join(b"250-%s\r\n" % one for one in offers[:-1]))
                file.write(b"250 %s\r\n" % offers[-1])
            elif text.upper() == "STARTTLS" and self.server.context:
                file.write(b"220 go\r\n")
                socket = self.server.context.wrap_socket(socket, server_side=True)
                file, tls = socket.makefile("rwb", buffering=0), True
            elif text.upper() == "DATA":
                file.write(b"354 go\r\n")
                while (line := file.readline()) != b".\r\n":
                    (self.server.secret if tls else self.server.lines).append(line.decode())
                file.write(b"250 fine\r\n")
            else:
                file.write(b"235 in\r\n" if text.startswith("AUTH") else b"250 fine\r\n")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """One that the machine does not know."""
    return trustme.CA()


@contextmanager
def serving(
    authority: trustme.CA | None, *, starttls: bool = False, from_start: bool = False
) -> Iterator[Server]:
    context = None
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
    with Server(context, starttls=starttls, from_start=from_start) as server:
        yield server
        server.shutdown()


def send(scheme: str, server: Server, user: str = "me:s3cret@", more: str = "") -> None:
    port = server.server_address[1]
    [channel] = channels({EMAIL: f"{scheme}://{user}127.0.0.1:{port}?to=d@e.f{more}"})
    assert "s3cret" not in repr(channel)
    channel.send(MESSAGE)


def test_no_password_goes_in_clear() -> None:
    with serving(None) as server, pytest.raises(ChannelError, match="STARTTLS") as refused:
        send("smtp", server)
    assert "s3cret" not in str(refused.value)
    assert not [one for one in server.lines if one.startswith(("AUTH", "MAIL"))]


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_server_that_cannot_prove_its_name_gets_nothing(
    scheme: str, authority: trustme.CA
) -> None:
    how = {"starttls": scheme == "smtp", "from_start": scheme == "smtps"}
    with (
        serving(authority, **how) as server,
        pytest.raises(ChannelError, match="certificate cannot be verified"),
    ):
        send(scheme, server)
    assert not [one for one in server.lines + server.secret if one.startswith(("AUTH", "MAIL"))]


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_server_of_a_named_authority_gets_the_mail_over_tls(
    scheme: str, authority: trustme.CA, tmp_path: Path
) -> None:
    how = {"starttls": scheme == "smtp", "from_start": scheme == "smtps"}
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with serving(authority, **how) as server:
        send(scheme, server, more=f"&ca={ca}")
        send(scheme, server, more=f"&ca={ca}")
    assert any(one.startswith("AUTH") for one in server.secret)
    assert not [one for one in server.lines if one.startswith(("AUTH", "MAIL"))]
    # The same message has the same name each time it is sent.
    names = [one for one in server.secret if one.lower().startswith("message-id")]
    assert names[0] == names[1]
    assert "k1" in names[0]


def test_without_a_password_a_mail_may_go_in_clear() -> None:
    with serving(None) as server:
        send("smtp", server, user="")
    mail = message_from_string("".join(one for one in server.lines if one.endswith("\n")))
    assert mail["Subject"] == MESSAGE.title


def test_a_file_of_certificates_must_be_there() -> None:
    with pytest.raises(SkewlessError, match="must name a file"):
        channels({EMAIL: "smtps://h?to=a@b.c&ca=/nowhere/ca.pem"})
