"""What to simulate: the parameters of `skewless simulate`, and the histories they make."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feature_repo.messages import EPOCH

if TYPE_CHECKING:
    from feature_repo.simulator.event_history import Columns
    from feature_repo.simulator.shop import Shop

MILLI = 1_000
SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR


@dataclass(frozen=True)
class Simulation:
    """Equal simulations give equal bytes (with the same numpy).

    The history covers the ``days`` before ``until``; nothing arrives later than ``until``. What
    is put into carts and ordered follows from the views.
    """

    visitors: int = field(default=5_000, metadata={"help": "How many visitors."})
    products: int = field(default=1_000, metadata={"help": "How many products."})
    days: int = field(default=45, metadata={"help": "Days of history before --until."})
    views: int = field(default=200_000, metadata={"help": "How many views of product pages."})
    seed: int = field(default=1, metadata={"help": "The same seed makes the same history."})
    until: datetime = field(default_factory=lambda: datetime.now(UTC))
    cart_share: float = field(
        default=0.12, metadata={"help": "The share of views that put the product into the cart."}
    )
    order_share: float = field(
        default=0.4, metadata={"help": "The share of what is put into carts that is ordered."}
    )
    late_share: float = field(
        default=0.02, metadata={"help": "The share of events that arrive hours or days late."}
    )
    duplicate_share: float = field(
        default=0.005, metadata={"help": "The share of events that are delivered twice."}
    )

    def __post_init__(self) -> None:
        for name in ("visitors", "products", "days"):
            if getattr(self, name) < 1:
                raise ValueError(f"A simulation needs {name} of 1 or more.")
        for name in ("views", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"A simulation needs {name} of 0 or more.")
        for name in ("cart_share", "order_share", "late_share", "duplicate_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"A simulation's {name} lies between 0 and 1.")
        if self.until.tzinfo is None:
            raise ValueError("A simulation's end needs a time zone.")

    @property
    def until_us(self) -> int:
        """The end, in microseconds since the epoch, on a whole millisecond."""
        return (self.until - EPOCH) // timedelta(microseconds=1) // MILLI * MILLI

    @property
    def start_us(self) -> int:
        """The beginning of the first day, in microseconds since the epoch."""
        return self.until_us - self.days * DAY

    @cached_property
    def shop(self) -> "Shop":
        """The visitors and the catalogue; built once, at the first use."""
        from feature_repo.simulator.shop import Shop  # noqa: PLC0415 - built on this

        return Shop(self)

    @cached_property
    def _columns(self) -> Mapping[str, "Columns"]:
        from feature_repo.simulator.event_history import columns_by_source  # noqa: PLC0415

        return columns_by_source(self)

    @property
    def deliveries(self) -> dict[str, int]:
        """By source, the rows in its history, duplicates included."""
        return {name: len(columns) for name, columns in self._columns.items()}

    def histories(self) -> dict[str, Iterator[pa.RecordBatch]]:
        """By source, its rows in order of arrival: the catalogue, page views, orders."""
        return {name: columns.batches() for name, columns in self._columns.items()}

    @property
    def columns(self) -> Mapping[str, "Columns"]:
        """The same as numpy columns."""
        return self._columns

    def to_json(self) -> dict[str, Any]:
        """The parameters as JSON types."""
        return {**asdict(self), "until": self.until.isoformat()}

    def generator(self, *purpose: int) -> np.random.Generator:
        """A stream of random numbers of its own for each ``purpose``."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=purpose))
