"""Live messages of the simulated shop, as its producers would send them now."""

from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np

from feature_repo.messages import EPOCH, Message, message, tombstone
from feature_repo.simulator.event_history import STATUS_SHARES, STATUSES
from feature_repo.simulator.shop import CATEGORIES, texts, uuids
from feature_repo.simulator.simulation import MILLI, Simulation

_DRAWN_AT_ONCE = 256
_KINDS = np.array(["view", "add", "remove", "order", "price", "delete"])
_SHARES = (0.79, 0.09, 0.03, 0.06, 0.025, 0.005)
# A duplicate is one of the messages just before.
_REMEMBERED = 64


def live_messages(
    simulation: Simulation,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    stream: int = 0,
) -> Iterator[Message]:
    """Yield messages of the three topics without end, of things that happen as they are asked for.

    By the simulation's shares some happened hours before, and some are sent again, byte for byte.
    Who does what in which order depends on the simulation and ``stream`` alone; producers side by
    side take a ``stream`` (0 to 7) each.
    """
    shop = simulation.shop
    rng = simulation.generator(4, stream)
    sent: deque[Message] = deque(maxlen=_REMEMBERED)
    lsn = 0
    while True:
        visitors = shop.draw_visitors(rng, _DRAWN_AT_ONCE)
        ends = np.full(_DRAWN_AT_ONCE, simulation.until_us)
        products = shop.draw_products(rng, visitors, ends)
        kinds = rng.choice(_KINDS, _DRAWN_AT_ONCE, p=_SHARES)
        prices = np.maximum(
            shop.price_cents[products] * rng.choice([80, 90, 100, 110], _DRAWN_AT_ONCE) // 100, 1
        )
        hours = np.where(
            rng.random(_DRAWN_AT_ONCE) < simulation.late_share,
            rng.uniform(0.25, 72, _DRAWN_AT_ONCE),
            0,
        )
        repeated = rng.random(_DRAWN_AT_ONCE) < simulation.duplicate_share
        for visitor, product, kind, cents, late, again in zip(
            visitors.tolist(), products.tolist(), kinds.tolist(), prices.tolist(),
            hours.tolist(), repeated.tolist(), strict=True,
        ):  # fmt: skip
            if again and sent:
                yield sent[int(rng.integers(len(sent)))]
            now = clock()
            moment = (now - EPOCH) // timedelta(milliseconds=1) * MILLI
            at = EPOCH + timedelta(microseconds=moment)
            row = {"visitor_id": shop.visitors[visitor], "sku": shop.skus[product]}
            [name] = texts(uuids(rng, np.array([moment])))
            if kind in ("price", "delete"):
                # The catalogue's database commits now, and never twice at one place of its log.
                lsn = max(lsn + 8, moment * 8 + stream)
                gone = kind == "delete"
                change = {
                    "lsn": lsn, "sku": row["sku"], "changed_at": at, "op": "u", "deleted": gone,
                    "category": None if gone else CATEGORIES[shop.category[product]],
                    "price": None if gone else Decimal(cents).scaleb(-2),
                }  # fmt: skip
                found = message("products", change)
            elif kind == "order":
                quantity = int(min(rng.geometric(0.75), 20))
                line = {
                    "order_id": name, "amount": Decimal(cents * quantity).scaleb(-2),
                    "quantity": quantity, "ordered_at": now - timedelta(hours=late),
                    "status": STATUSES[rng.choice(3, p=STATUS_SHARES)],
                }  # fmt: skip
                found = message("orders", row | line)
            else:
                view = {"view_id": name, "act": kind, "viewed_at": at - timedelta(hours=late)}
                found = message("page_views", row | view)
            sent.append(found)
            yield found
            if kind == "delete":
                yield tombstone(found)
