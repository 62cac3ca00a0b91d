"""The simulated shop: its visitors and its catalogue, as numpy columns."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feature_repo.simulator.simulation import DAY, HOUR, MILLI, SECOND, Simulation

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]

_SEEDS = Path(__file__).parent.parent / "seeds" / "categories.json"
CATEGORIES: Texts = np.array([row["category"] for row in json.loads(_SEEDS.read_text())], object)

# SKUs that another system might take for each other, or trip over: case, leading zeros, Unicode
# forms of one letter, letters of other scripts, digits alone, quotes and braces, 40 characters.
LOOK_ALIKES = (
    "A-1", "a-1", "A-01", "А-1", "Ａ-1", "\u00c9-7", "E\u0301-7", "\u00e9-7", "7", "007", "7.0",
    'q"{},\\', "%s;--", "a,b\tc", "A 1", "null", "NaN", "\u017fku", "straße", "STRASSE", "茶-1",
    "\U0001f9e6-1", "x" * 40, "x" * 39, "\u00e9" * 40,
)  # fmt: skip

_HEX = np.array([list(b"%02x" % byte) for byte in range(256)], dtype=np.uint8)
# Where the 32 hexadecimal digits of a UUID go; the four places between hold dashes.
_DIGITS = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])


class Shop:
    """The visitors and products of one simulation, and every change of the catalogue.

    Attributes:
        visitors: Their UUIDs in small letters.
        skus: The products' SKUs, in order of popularity.
        price_cents: What each product costs at first.
        category: The index of each product's first category in `CATEGORIES`.
        added_at: When each product came into the catalogue, in microseconds.
        change_product, change_op, change_at, change_category, change_price, change_lsn: The
            catalogue's changes in the order in which they were committed; ``op`` is c, u or d,
            and a delete's category and price mean nothing.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._make_products(simulation.generator(0))
        self._make_visitors(simulation.generator(1))
        self._make_changes(simulation.generator(2))

    def _make_products(self, rng: np.random.Generator) -> None:
        simulation, products = self.simulation, self.simulation.products
        skus = list(LOOK_ALIKES[: max(1, products // 2)])
        skus += [
            f"SKU-{number:05}" if number % 3 else f"{number:08}"
            for number in range(len(skus), products)
        ]
        # Half of the look-alikes are among the most popular, where everything happens often.
        popular = rng.random(products) < np.where(np.arange(products) < len(LOOK_ALIKES), 0.5, 0)
        order = np.lexsort((rng.random(products), ~popular))
        self.skus: Texts = np.array(skus, object)[order]
        self.popularity: Floats = 1.0 / np.arange(1, products + 1)
        self.category: Ints = rng.integers(0, len(CATEGORIES), products)
        level = np.exp(rng.uniform(np.log(5), np.log(120), len(CATEGORIES)))
        euros = np.ceil(level[self.category] * rng.lognormal(0, 0.5, products))
        self.price_cents: Ints = euros.astype(np.int64) * 100 - 1

        # One product in ten comes during the history; the most popular one is older.
        before = simulation.start_us - rng.integers(HOUR, 365 * DAY, products)
        during = simulation.start_us + (rng.random(products) * simulation.days * DAY).astype("i8")
        new = rng.random(products) < 0.1
        new[0] = False
        self.added_at: Ints = np.where(new, during, before) // MILLI * MILLI

    def _make_visitors(self, rng: np.random.Generator) -> None:
        count = self.simulation.visitors
        self.visitors: Texts = texts(uuids(rng, np.zeros(count, np.int64), version=4))
        # Log-normal with a heavy tail, as of every shop: most come once.
        self.activity: Floats = np.minimum(rng.lognormal(0, 1.5, count), 60.0)
        self.preferred_hour: Floats = np.where(
            rng.random(count) < 0.7, rng.normal(20, 2.5, count), rng.uniform(0, 24, count)
        )
        self.favourite: Ints = rng.integers(0, len(CATEGORIES), count)

    def _make_changes(self, rng: np.random.Generator) -> None:
        simulation, products = self.simulation, self.simulation.products
        start = np.maximum(self.added_at + SECOND, simulation.start_us)
        until = simulation.until_us

        def later(than: Ints) -> Ints:
            spread = than + (rng.random(len(than)) * (until - than)).astype(np.int64)
            return np.minimum(spread // MILLI * MILLI, until)

        # Two prices of three change, some several times; one product in twenty is deleted, and
        # two of five of these are sold again.
        updated = np.repeat(np.arange(products), rng.poisson(1.2, products))
        updated_at = later(start[updated])
        gone = np.flatnonzero(rng.random(products) < 0.05)
        gone_at = np.full(products, np.iinfo(np.int64).max)
        gone_at[gone] = later(later(start[gone]))
        kept = updated_at < gone_at[updated]
        updated, updated_at = updated[kept], updated_at[kept]
        back = gone[rng.random(len(gone)) < 0.4]
        back_at = later(gone_at[back] + SECOND)

        product = np.concatenate([np.arange(products), updated, gone, back])
        at = np.concatenate([self.added_at, updated_at, gone_at[gone], back_at])
        counts = [products, len(updated), len(gone), len(back)]
        op = np.repeat(np.array(["c", "u", "d", "c"]), counts)
        later_price = np.maximum(
            self.price_cents[product] * rng.choice([70, 80, 90, 95, 105, 110], len(at)) // 100, 1
        )
        first = np.repeat([True, False, False, False], counts)
        price = np.where(first, self.price_cents[product], later_price)
        # One update in ten says another category.
        moved = ~first & (rng.random(len(at)) < 0.1)
        category = np.where(
            moved, rng.integers(0, len(CATEGORIES), len(at)), self.category[product]
        )
        order = np.argsort(at, kind="stable")
        self.change_product: Ints = product[order]
        self.change_op = op[order]
        self.change_at: Ints = at[order]
        self.change_category: Ints = category[order]
        self.change_price: Ints = price[order]
        # As the log of a database: never equal, never back.
        step = np.arange(len(at))
        self.change_lsn: Ints = np.maximum.accumulate(self.change_at * 8 - step) + step

    def draw_visitors(self, rng: np.random.Generator, count: int) -> Ints:
        """Indexes of ``count`` visitors, by their activity."""
        until = np.cumsum(self.activity)
        drawn: Ints = np.searchsorted(until, rng.random(count) * (1 - 1e-12) * until[-1], "right")
        return drawn

    def draw_hours(self, rng: np.random.Generator, visitors: Ints) -> Floats:
        """An hour of day in [0, 24) per visitor: near the preferred one, one time in ten any."""
        near = rng.normal(self.preferred_hour[visitors], 1.5)
        return np.where(rng.random(len(near)) < 0.9, near, rng.uniform(0, 24, len(near))) % 24

    def draw_products(self, rng: np.random.Generator, visitors: Ints, moments: Ints) -> Ints:
        """A product's index per visitor: by popularity, mostly of the favourite category.

        None is drawn before it came into the catalogue; one that has left it may be looked at.
        """
        products = self._drawn(rng, np.arange(self.simulation.products), len(visitors))
        keen = rng.random(len(visitors)) < 0.6
        for category in range(len(CATEGORIES)):
            mine = np.flatnonzero(keen & (self.favourite[visitors] == category))
            among = np.flatnonzero(self.category == category)
            if len(mine) and len(among):
                products[mine] = self._drawn(rng, among, len(mine))
        early = np.flatnonzero(self.added_at[products] >= moments)
        old = np.flatnonzero(self.added_at < self.simulation.start_us)
        products[early] = self._drawn(rng, old, len(early))
        return products

    def _drawn(self, rng: np.random.Generator, among: Ints, count: int) -> Ints:
        until = np.cumsum(self.popularity[among])
        place = np.searchsorted(until, rng.random(count) * (1 - 1e-12) * until[-1], "right")
        drawn: Ints = among[place]
        return drawn

    def price_at(self, products: Ints, moments: Ints) -> Ints:
        """What a product cost at a moment, in cents; what it cost last where it was deleted."""
        told = self.change_op != "d"
        order = np.lexsort((self.change_at[told], self.change_product[told]))
        product, at = self.change_product[told][order], self.change_at[told][order]
        # One number that sorts as the pair does; changes have whole milliseconds.
        begin = int(self.added_at.min()) // MILLI
        span = self.simulation.until_us // MILLI - begin + 1
        known = product * span + (at // MILLI - begin)
        asked = products * span + np.clip(moments // MILLI - begin, 0, span - 1)
        place = np.searchsorted(known, asked, "right") - 1
        place = np.maximum(place, np.searchsorted(product, products))
        found: Ints = self.change_price[told][order][place]
        return found


def uuids(rng: np.random.Generator, moments: Ints, version: int = 7) -> npt.NDArray[np.uint8]:
    """UUIDs as text, an ``(n, 36)`` array of ASCII; version 7 begins with its microseconds."""
    count = len(moments)
    octets = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    if version == 7:
        millis = (moments // MILLI).astype(">u8").view(np.uint8).reshape(count, 8)
        octets[:, :6] = millis[:, 2:]
    octets[:, 6] = octets[:, 6] & 0x0F | version << 4
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    text = np.full((count, 36), ord("-"), dtype=np.uint8)
    text[:, _DIGITS] = _HEX[octets].reshape(count, 32)
    return text


def texts(ascii_rows: npt.NDArray[np.uint8]) -> Texts:
    """Rows of ASCII as Python's texts."""
    joined = np.ascontiguousarray(ascii_rows).tobytes().decode()
    return np.array([joined[i : i + 36] for i in range(0, len(joined), 36)], object)
