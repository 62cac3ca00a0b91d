"""What can be set about the server; every limit has a default that is safe."""

from dataclasses import dataclass
from pathlib import Path

from extensions.errors import SkewlessError


@dataclass(frozen=True)
class Settings:
    """One server. Times in seconds unless named otherwise, sizes in bytes.

    ``repo``: the folder of feature_store.yaml. ``user_service`` and ``rank_service``: the
    feature services behind ``/v1/features/user/{id}`` and ``/v1/features/rank``.
    ``redis_deadline_ms``: how long a request waits for Redis before it is answered 503.
    ``max_waiting``: requests that one worker has in hand; more are answered 503 at once.
    ``api_key``: where set, ``/v1`` demands it in the header ``X-Api-Key``.
    """

    repo: Path
    host: str = "127.0.0.1"
    port: int = 6566
    workers: int = 1
    user_service: str = "home_page"
    rank_service: str = "ranking"
    redis_deadline_ms: int = 50
    max_items: int = 1_000
    max_body: int = 1_000_000
    max_waiting: int = 512
    keep_alive: int = 75
    api_key: str | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    # How often the registry and the watermarks are looked at.
    poll: float = 0.5

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SkewlessError("A server needs at least one worker: say --workers 1 or more.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SkewlessError("TLS needs both: give --tls-certificate and --tls-key.")
