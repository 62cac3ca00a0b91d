"""Bulk loading into tables of any columns: refused rows, defaults, partitions, rows without ids."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from extensions.errors import InputError
from extensions.history.bulk_load import load
from extensions.history.row_refusals import NUMBER
from tests.history.declared import declare
from tests.history.tables import count, fetch

AT = datetime(2025, 3, 1, 10, tzinfo=UTC)
ORDERS = """
CREATE TABLE orders (
    order_id text COLLATE "C" NOT NULL,
    visitor_id uuid NOT NULL,
    sku varchar(8) NOT NULL,
    ordered_at timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    amount numeric(10, 2) CHECK (amount >= 0),
    quantity smallint NOT NULL DEFAULT 1 CHECK (quantity > 0),
    gift boolean,
    tags text[],
    extra jsonb,
    total numeric GENERATED ALWAYS AS (amount * quantity) STORED
) PARTITION BY RANGE (ordered_at)
"""
VISITOR = "7d1f1e0c-7d0a-4b62-9b55-0c1b1b1b1b1b"


def orders(url: str, partition: str = "month"):
    return declare(
        url, ORDERS, time="ordered_at", arrival="ingested_at",
        keys="visitor_id,sku", id="order_id", partition=partition,
    )  # fmt: skip


def rows(*values: dict) -> pa.RecordBatch:
    base = {"visitor_id": VISITOR, "sku": "a-1", "ordered_at": AT, "amount": "9.99", "quantity": 2,
            "gift": None, "tags": None, "extra": None}  # fmt: skip
    whole = [base | {"order_id": f"o-{n}"} | value for n, value in enumerate(values)]
    schema = pa.schema(
        [
            ("order_id", pa.string()), ("visitor_id", pa.string()), ("sku", pa.string()),
            ("ordered_at", pa.timestamp("us", "UTC")), ("amount", pa.string()),
            ("quantity", pa.int64()), ("gift", pa.bool_()), ("tags", pa.string()),
            ("extra", pa.string()),
        ]
    )  # fmt: skip
    batch = pa.RecordBatch.from_pylist(whole, schema)
    return batch.append_column(NUMBER, pa.array(range(100, 100 + len(whole))))


def test_columns_of_any_type_defaults_and_nulls(fresh_database: str) -> None:
    table = orders(fresh_database)
    before = datetime.now(UTC)
    batch = rows(
        {"gift": True, "tags": '{a,"b c"}', "extra": '{"x": 1}'}, {"quantity": None},
        {"sku": "ünï-😀", "amount": None, "ordered_at": AT - timedelta(days=400)},
    )  # fmt: skip
    result = load(fresh_database, table, [batch])
    assert (result.read, result.inserted, result.rejected) == (3, 3, 0)
    found = fetch(
        fresh_database,
        "SELECT visitor_id::text, sku, ordered_at, quantity, gift, tags, extra, total::text, "
        "tableoid::regclass::text FROM orders ORDER BY order_id",
    )
    month = "orders_2025_03"
    assert found == [
        (VISITOR, "a-1", AT, 2, True, ["a", "b c"], {"x": 1}, "19.98", month),
        (VISITOR, "a-1", AT, 1, None, None, None, "9.99", month),
        (VISITOR, "ünï-😀", AT - timedelta(days=400), 2, None, None, None, None, "orders_2024_01"),
    ]
    [(least,)] = fetch(fresh_database, "SELECT min(ingested_at) FROM orders")
    assert before - timedelta(seconds=5) <= least
    again = load(fresh_database, table, [batch])
    assert (again.inserted, again.duplicates) == (0, 3)


@pytest.mark.parametrize("partition", ["month", "day"])
def test_a_refused_row_is_one_rejected_row_with_its_reason(
    fresh_database: str, partition: str
) -> None:
    table = orders(fresh_database, partition)
    bad = {
        3: ({"amount": "-1"}, "it violates orders_amount_check"),
        8: ({"quantity": 0}, "it violates orders_quantity_check"),
        9: ({"sku": None}, "sku must not be null"),
        15: ({"visitor_id": "nobody"}, "invalid input syntax for type uuid"),
        16: ({"sku": "x" * 9}, "value too long for type character varying(8)"),
        17: ({"extra": "{"}, "invalid input syntax for type json"),
        18: ({"amount": "1e12"}, "numeric field overflow"),
    }
    batch = rows(*(bad[n][0] if n in bad else {} for n in range(40)))
    refused: dict[int, str] = {}

    def note(rows: pa.RecordBatch, why: str) -> None:
        refused.update(dict.fromkeys(rows.column(NUMBER).to_pylist(), why))

    result = load(fresh_database, table, [batch], refused=note)
    assert refused == {100 + n: why for n, (_, why) in bad.items()}
    assert (result.read, result.inserted, result.duplicates, result.rejected) == (40, 33, 0, 7)
    assert result.reasons == Counter(why for _, why in bad.values())
    assert count(fresh_database, "orders") == count(fresh_database, "orders_ids") == 33
    label = "2025_03" if partition == "month" else "2025_03_01"
    assert count(fresh_database, f"orders_{label}") == 33


def test_many_refused_rows_are_found_at_once(fresh_database: str) -> None:
    table = orders(fresh_database)
    batch = rows(*({"quantity": n % 2, "amount": str(n % 3 - 1)} for n in range(20_000)))
    result = load(fresh_database, table, [batch])
    assert (result.inserted, result.rejected) == (6_667, 13_333)
    both = "it violates orders_amount_check; it violates orders_quantity_check"
    assert result.reasons[both] == 3_334
    assert result.seconds < 10  # by halving it takes minutes


def test_an_id_whose_first_row_was_refused_is_free(fresh_database: str) -> None:
    table = orders(fresh_database)
    same = {"order_id": "o"}
    batch = rows(
        same | {"quantity": 0}, same | {"quantity": -1}, same | {"quantity": 5}, same, {}
    )  # fmt: skip
    result = load(fresh_database, table, [batch])
    assert (result.inserted, result.duplicates, result.rejected) == (2, 1, 2)
    assert fetch(fresh_database, "SELECT quantity FROM orders WHERE order_id = 'o'") == [(5,)]


def test_a_trial_leaves_nothing(fresh_database: str) -> None:
    table = orders(fresh_database)
    result = load(fresh_database, table, [rows({}, {"quantity": 0})], keep=False)
    assert (result.inserted, result.rejected) == (1, 1)
    assert count(fresh_database, "orders") == count(fresh_database, "orders_ids") == 0
    assert fetch(fresh_database, "SELECT to_regclass('orders_2025_03')") == [(None,)]


VISITS = """
CREATE TABLE visits (
    visitor text COLLATE "C" NOT NULL,
    visited_at timestamptz NOT NULL,
    known_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    page json,
    seconds double precision,
    CHECK (seconds >= 0)
)
"""


def visits(*values: tuple) -> pa.RecordBatch:
    schema = pa.schema(
        [("visitor", pa.string()), ("visited_at", pa.timestamp("us", "UTC")),
         ("known_at", pa.timestamp("us", "UTC")), ("page", pa.string()), ("seconds", pa.float64())]
    )  # fmt: skip
    return pa.RecordBatch.from_pylist(
        [dict(zip(schema.names, value, strict=True)) for value in values], schema
    )


def test_without_an_id_equal_rows_are_stored_once(fresh_database: str) -> None:
    table = declare(fresh_database, VISITS, time="visited_at", arrival="known_at", keys="visitor")
    batch = visits(
        ("a", AT, None, '{"p": 1}', 1.5), ("a", AT, None, '{"p": 1}', 1.5),
        ("a", AT, None, '{"p": 2}', 1.5), ("a", AT, None, None, None), ("b", AT, None, None, None),
        ("b", AT, AT, None, None), ("b", AT, None, None, -1.0),
    )  # fmt: skip
    first, again = (load(fresh_database, table, [batch]) for _ in range(2))
    assert (first.inserted, first.duplicates, first.rejected) == (5, 1, 1)
    # What claims an arrival of its own is another row; what arrives by being loaded is there.
    assert (again.inserted, again.duplicates, again.rejected) == (0, 6, 1)
    small = load(fresh_database, table, [batch], chunk_rows=1)
    assert (small.inserted, small.rejected) == (0, 1)


def test_columns_that_a_table_does_not_have_are_named(fresh_database: str) -> None:
    table = orders(fresh_database)
    batch = rows({})
    with pytest.raises(InputError, match="no column colour that could be written"):
        load(fresh_database, table, [batch.append_column("colour", pa.array(["red"]))])
    with pytest.raises(InputError, match="quantity of orders is smallint; string cannot"):
        place = batch.schema.get_field_index("quantity")
        load(fresh_database, table, [batch.set_column(place, "quantity", pa.array(["many"]))])
