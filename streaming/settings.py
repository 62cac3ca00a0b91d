"""What an operator may set: one frozen value for the worker and the tools beside it."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from extensions.repository import repo_root

OnLost = Literal["stop", "earliest"]


def _worker_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True)
class Settings:
    """Addresses, the stream, and the bounds of a step. Times are seconds unless named otherwise.

    ``stream`` is the name of a declared stream (a ``KafkaSource``); ``topic`` and ``group`` are
    its own where they are empty (`streaming.declared_streams.settings_of` fills them in).
    ``postgres_url`` and the addresses that the Feast repository at ``repo_root`` resolves must
    mean the same servers. ``on_lost`` says what to do when Kafka no longer holds the next
    offset: stop with a sentence, or go on from the earliest one that it holds.
    """

    postgres_url: str
    kafka_bootstrap: str
    repo_root: Path = field(default_factory=repo_root)
    stream: str = ""
    topic: str = ""
    group: str = ""
    worker: str = field(default_factory=_worker_name)
    on_lost: OnLost = "stop"

    # A step takes what has come, at most `batch_records`, and gathers for `batch_wait` after the
    # first message: a step has costs of its own, however little it holds.
    # After a full one it takes twice as many, up to `catch_up_records`: a step's own costs, and
    # an entity that comes in it twice, count once.
    batch_records: int = 2_000
    batch_wait: float = 0.04
    catch_up_records: int = 10_000
    # A worker that is further behind stores first and computes each entity once when it has
    # caught up, or after `drain_seconds`: values between the two would never be served.
    drain_above: int = 20_000
    drain_records: int = 20_000
    drain_seconds: float = 60.0

    max_message_bytes: int = 64 * 1024
    max_future: float | None = None  # None: as the stream declares
    dead_letter_partitions: int = 1
    partitions: int = 3

    sweep_every: float = 2.0
    idle_every: float = 1.0
    report_every: float = 2.0

    # Short, since the fence in PostgreSQL and not the group keeps two workers apart.
    session_timeout: float = 10.0
    max_poll_interval: float = 300.0
    outage_pause: float = 0.1
    longest_outage_pause: float = 5.0
    # A poll that does not come back within this time never will: the worker ends.
    poll_patience: float = 60.0
    # A stopped partition is tried again this often: the broker may have mended it.
    retry_stopped: float = 60.0
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"

    @property
    def dead_letter_topic(self) -> str:
        """Where messages go that cannot be read, with the reason."""
        return f"{self.topic}.dead-letter"
