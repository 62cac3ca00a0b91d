"""Where messages go: Slack-compatible webhooks, any webhook, e-mail. Set by the environment.

``SKEWLESS_ALERT_SLACK``    an incoming-webhook URL (Slack, Mattermost, …): ``{"text": …}``
``SKEWLESS_ALERT_WEBHOOK``  any URL: the whole message as JSON
``SKEWLESS_ALERT_EMAIL``    ``smtp[s]://user:password@host:port?from=a@b&to=c@d&to=e@f``
"""

import json
import os
import smtplib
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from extensions.errors import SkewlessError

SLACK, WEBHOOK, EMAIL = (
    "SKEWLESS_ALERT_SLACK", "SKEWLESS_ALERT_WEBHOOK", "SKEWLESS_ALERT_EMAIL",
)  # fmt: skip
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Message:
    """What is said of an incident: that it began, or that it ended."""

    incident: int
    kind: str
    service: str
    severity: str
    title: str
    lines: tuple[str, ...]
    window_end: str

    @property
    def text(self) -> str:
        """Title and lines."""
        return "\n".join([self.title, *self.lines])


class ChannelError(Exception):
    """The message was not taken; the text names no secret."""


class Channel(Protocol):
    """Takes messages."""

    @property
    def name(self) -> str:
        """Which it is: slack, webhook or email."""

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
            self.url, json.dumps(body).encode(), {"content-type": "application/json"}
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
    """Plain text by SMTP; STARTTLS where the server offers it."""

    name: str
    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    tls: bool = False

    def send(self, message: Message) -> None:
        """One mail to all recipients."""
        mail = EmailMessage()
        mail["Subject"] = message.title
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        mail.set_content("\n".join(message.lines) or message.title)
        kind = smtplib.SMTP_SSL if self.tls else smtplib.SMTP
        try:
            with kind(self.host, self.port, timeout=TIMEOUT_SECONDS) as server:
                server.ehlo()
                if not self.tls and server.has_extn("starttls"):
                    server.starttls()
                if self.user:
                    server.login(self.user, self.password or "")
                server.send_message(mail)
        except smtplib.SMTPResponseException as error:
            raise ChannelError(f"it answered {error.smtp_code}") from None
        except (OSError, smtplib.SMTPException) as error:
            raise ChannelError(f"it cannot be reached ({type(error).__name__})") from None


def channels(environment: Mapping[str, str] | None = None) -> Sequence[Channel]:
    """The channels that the environment sets.

    Raises:
        SkewlessError: one of them cannot be read.
    """
    held = os.environ if environment is None else environment
    found: list[Channel] = []
    for variable, name in ((SLACK, "slack"), (WEBHOOK, "webhook")):
        if url := held.get(variable):
            if urlsplit(url).scheme not in ("http", "https"):
                raise SkewlessError(f"{variable} must be an http or https URL.", exit_code=3)
            found.append(Webhook(name, url, slack=name == "slack"))
    if url := held.get(EMAIL):
        found.append(_email(url))
    return found


def _email(url: str) -> Email:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    to = tuple(one for each in query.get("to", []) for one in each.split(","))
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or not to:
        raise SkewlessError(
            f"{EMAIL} must read like smtp://host:25?from=store@example.org&to=team@example.org.",
            exit_code=3,
        )
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
    )
