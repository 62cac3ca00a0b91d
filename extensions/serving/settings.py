"""What can be set about the server; every limit has a default that is safe."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extensions.errors import ConfigurationError

# Feast's own server has 6566, which the Fetch standard blocks (it is SANE's), so that no browser
# opens a URL with it. 8566 is Feast's number among the other ports for HTTP, is assigned to no
# service by IANA, and lies below the range of outgoing connections.
DEFAULT_PORT = 8566

_ORIGIN = re.compile(r"https?://[^/\s?#@]+")


@dataclass(frozen=True)
class Settings:
    """One server. Times in seconds unless named otherwise, sizes in bytes.

    ``repo``: the folder of feature_store.yaml.
    ``redis_deadline_ms``: how long a request waits for Redis before it is answered 503.
    ``max_items``: rows, ids or results that one request may ask for, on every route; ``max_rows``:
    rows that one may write; ``max_references``: features that one may name, and ``max_values``
    those times its rows. ``max_body``: one body; ``max_bodies``: all that a worker has in memory.
    ``max_waiting``: requests in progress in one worker; more are answered 503 at once.
    ``max_connections``: of one worker, fewer where the process may open fewer files.
    ``max_header``: request line and headers. ``header_seconds`` and ``body_seconds``: how long a
    client may take to send them.
    ``api_key``: where set, demanded in the header ``X-Api-Key``; ``api_key_file``: keys, one a
    line, read again while the server serves; see docs/security.md.
    ``log_rate``: the share of requests that go to the serving log; ``log_rates`` by service.
    ``near_megabytes``: size of the near cache of one entity in a worker; 0: none.
    ``docs``: whether ``/``, ``/docs`` and the OpenAPI documents are served (to everybody).
    ``cors_origins``: web pages of these origins may call the server from a browser; ``*``: all.
    ``gzip_bytes``: replies of at least so many bytes are compressed for clients that accept it;
    0: none (compressing takes longer than all else about a large reply).
    """

    repo: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 1
    redis_deadline_ms: int = 50
    max_items: int = 1_000
    max_rows: int = 10_000
    max_references: int = 1_000
    max_values: int = 250_000
    max_body: int = 1_000_000
    max_bodies: int = 64_000_000
    max_waiting: int = 512
    max_connections: int = 4_096
    max_header: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    keep_alive: int = 75
    api_key: str | None = field(default=None, repr=False)
    api_key_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    # How often the registry and the watermarks are looked at.
    poll: float = 0.5
    log_rate: float = 0.01
    log_rates: Mapping[str, float] = field(default_factory=dict)
    near_megabytes: int = 64
    docs: bool = True
    cors_origins: tuple[str, ...] = ()
    gzip_bytes: int = 0

    def __post_init__(self) -> None:
        for is_wrong, message in self._checks():
            if is_wrong:
                raise ConfigurationError(message)

    def _checks(self) -> Iterator[tuple[bool, str]]:
        """Each rule: whether it is broken, and what to say of it."""
        yield self.workers < 1, "A server needs at least one worker: say --workers 1 or more."
        yield (
            not 0 <= self.port <= 65_535,
            f"There is no port {self.port}: say --port {DEFAULT_PORT}, for instance.",
        )
        yield (
            self.redis_deadline_ms < 1,
            "Redis needs a deadline: say --redis-deadline-ms 1 or more.",
        )
        yield self.max_items < 1, "A ranking has items: say --max-items 1 or more."
        yield (
            self.max_body < 1 or self.max_connections < 1,
            "Requests need room: say --max-body and --max-connections 1 or more.",
        )
        yield self.api_key == "", "The key is empty: give --api-key a text, or leave it out."
        yield (
            (self.tls_certificate is None) != (self.tls_key is None),
            "TLS needs both: give --tls-certificate and --tls-key.",
        )
        for file in (self.tls_certificate, self.tls_key):
            yield (
                file is not None and not file.is_file(),
                f"There is no file {file}: --tls-… name PEM files.",
            )
        for origin in self.cors_origins:
            yield (
                origin != "*" and not _ORIGIN.fullmatch(origin),
                (
                    f"{origin!r} is no origin: say --cors-origin https://app.example.com (scheme, "
                    "host and port, no path), or '*' for all."
                ),
            )
        yield self.gzip_bytes < 0, "A size is not negative: say --gzip-bytes 0 for no compression."
