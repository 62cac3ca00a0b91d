"""Where messages go: Slack-compatible webhooks, any webhook, e-mail. Set by the environment.

``SKEWLESS_ALERT_SLACK``    an incoming-webhook URL (Slack, Mattermost, …): ``{"text": …}``
``SKEWLESS_ALERT_WEBHOOK``  any URL: the whole message as JSON
``SKEWLESS_ALERT_EMAIL``    ``smtp[s]://user:password@host:port?from=a@b&to=c@d&to=e@f``;
                            ``&ca=/path/ca.pem`` for a server with a certificate of one's own

Every message has a key that is the same for each attempt to send it. The webhook gets it as
``Idempotency-Key`` and in the body, a mail as its Message-ID; an incoming webhook of Slack has no
place for it, so that there a message can appear twice when its sender was killed in between.
"""

import json
import os
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from extensions.errors import ConfigurationError

SLACK, WEBHOOK, EMAIL = (
    "SKEWLESS_ALERT_SLACK", "SKEWLESS_ALERT_WEBHOOK", "SKEWLESS_ALERT_EMAIL",
)  # fmt: skip
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Message:
    """What is said of an incident: that it began, or that it ended.

    ``key`` is the same for each attempt at a message: a receiver that has it can leave out a
    second one.
    """

    incident: int
    kind: str
    service: str
    severity: str
    title: str
    lines: tuple[str, ...]
    window_end: str
    key: str = ""

    @property
    def text(self) -> str:
        """Title and lines."""
        return "\n".join([self.title, *self.lines])


class ChannelError(Exception):
    """The channel did not accept the message; the error text contains no secret."""


class Channel(Protocol):
    """A destination of messages."""

    @property
    def name(self) -> str:
        """The kind of channel: slack, webhook or email."""

    def send(self, message: Message) -> None:
        """Deliver, or raise ChannelError."""


@dataclass(frozen=True)
class Webhook:
    """``slack``: only the text, as incoming webhooks want it; else the whole message."""

    name: str
    url: str
    slack: bool

    def send(self, message: Message) -> None:
        """POST JSON; any 2xx is success."""
        body: dict[str, Any] = (
            {"text": message.text} if self.slack else {**asdict(message), "text": message.text}
        )
        request = urllib.request.Request(  # noqa: S310 - checked where it is read
            self.url,
            json.dumps(body).encode(),
            {"content-type": "application/json", "idempotency-key": message.key},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise ChannelError(f"it answered {error.code}") from None
        except (OSError, ValueError) as error:
            # The URL is a secret, and some errors quote it.
            raise ChannelError(f"it cannot be reached ({type(error).__name__})") from None


@dataclass(frozen=True)
class Email:
    """Plain text by SMTP, over TLS (``smtps://``) or STARTTLS to a server that proves its name.

    Without a password a mail may go in clear to a server that offers no STARTTLS; a password
    never does, and neither goes to a server whose certificate cannot be verified.
    """

    name: str
    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None

    def send(self, message: Message) -> None:
        """One mail to all recipients."""
        mail = EmailMessage()
        mail["Subject"] = message.title
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        mail.set_content("\n".join(message.lines) or message.title)
        # A message that is sent again has the same name: mailboxes show it once.
        mail["Message-ID"] = f"<{message.key or message.incident}@skewless.invalid>"
        context = ssl.create_default_context(cafile=self.ca)
        connect = partial(smtplib.SMTP_SSL, context=context) if self.tls else partial(smtplib.SMTP)
        try:
            server = connect(self.host, self.port, timeout=TIMEOUT_SECONDS)
            try:
                self._deliver(server, context, mail)
            finally:  # a mail that was taken is sent, whatever the farewell
                with suppress(OSError, smtplib.SMTPException):
                    server.quit()
        except ssl.SSLCertVerificationError as error:
            raise ChannelError(
                f"its certificate cannot be verified ({error.verify_message}): name the CA's file "
                "with &ca=/path/ca.pem in the URL"
            ) from None
        except smtplib.SMTPResponseException as error:
            raise ChannelError(f"it answered {error.smtp_code}") from None
        except (OSError, smtplib.SMTPException) as error:
            raise ChannelError(f"it cannot be reached ({type(error).__name__})") from None

    def _deliver(self, server: smtplib.SMTP, context: ssl.SSLContext, mail: EmailMessage) -> None:
        server.ehlo()
        if not self.tls and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
        elif not self.tls and self.user:
            raise ChannelError(
                "it offers no STARTTLS, and the password does not go in clear: use smtps://, or a "
                "URL without user and password"
            )
        if self.user:
            server.login(self.user, self.password or "")
        server.send_message(mail)


def channels(environment: Mapping[str, str] | None = None) -> Sequence[Channel]:
    """The channels that the environment sets.

    Raises:
        ConfigurationError: one of them cannot be read.
    """
    held = os.environ if environment is None else environment
    result: list[Channel] = []
    for variable, name in ((SLACK, "slack"), (WEBHOOK, "webhook")):
        if url := held.get(variable):
            if urlsplit(url).scheme not in ("http", "https"):
                raise ConfigurationError(f"{variable} must be an http or https URL.")
            result.append(Webhook(name, url, slack=name == "slack"))
    if url := held.get(EMAIL):
        result.append(_email(url))
    return result


def _email(url: str) -> Email:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    to = tuple(one for each in query.get("to", []) for one in each.split(","))
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or not to:
        raise ConfigurationError(
            f"{EMAIL} must read like smtp://host:25?from=store@example.org&to=team@example.org.",
        )
    if parts.password and not parts.username:
        raise ConfigurationError(f"{EMAIL} must name the user whose password it has.")
    ca = query.get("ca", [None])[0]
    if ca is not None and not Path(ca).is_file():
        raise ConfigurationError(f"{EMAIL} must name a file of certificates: {ca} is none.")
    tls = parts.scheme == "smtps"
    return Email(
        "email",
        parts.hostname,
        parts.port or (465 if tls else 25),
        query.get("from", ["skewless@localhost"])[0],
        to,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        tls,
        ca,
    )
