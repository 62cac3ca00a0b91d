"""What a repository declares of tables and streams: read, checked, and refused in one sentence."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import KafkaSource
from feast.data_format import JsonFormat
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_contents import RepoContents

from extensions.asof.definition_validation import check_contents
from extensions.database import connect, migrate
from extensions.errors import DefinitionError
from extensions.operations.seeds import record_seeds
from extensions.sources import Sources, load_sources

TAGS = {"keys": "sku", "id": "change_id", "deleted": "gone", "oldest": "1995-01-01"}


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    with connect(fresh_database, autocommit=True) as made:
        made.execute(
            "CREATE TABLE products (change_id bigint, sku text NOT NULL, price integer, "
            "gone boolean NOT NULL DEFAULT false, changed_at timestamptz NOT NULL, "
            "known_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        yield made


def products(**changes: Any) -> PostgreSQLSource:
    declared = {
        "name": "products", "table": "products", "timestamp_field": "changed_at",
        "created_timestamp_column": "known_at", "tags": TAGS,
    }  # fmt: skip
    return PostgreSQLSource(**{**declared, **changes})


def stream(table: PostgreSQLSource | None = None, **changes: Any) -> KafkaSource:
    declared = {
        "name": "changes", "topic": "catalogue", "timestamp_field": "changed_at",
        "message_format": JsonFormat("{}"), "kafka_bootstrap_servers": "",
        "batch_source": table or products(), "field_mapping": {"id": "change_id"},
    }  # fmt: skip
    return KafkaSource(**{**declared, **changes})


def contents(*sources: Any) -> RepoContents:
    empty: dict[str, Any] = {name: [] for name in RepoContents._fields}
    return RepoContents(**{**empty, "data_sources": list(sources)})


def loaded(conn: psycopg.Connection, *sources: Any) -> Sources:
    held = contents(*sources)
    check_contents(held)
    return load_sources(held, conn, "shop")


def test_a_table_and_its_stream_are_read(conn: psycopg.Connection) -> None:
    tags = {"time_unit": "ms", "max_future": "1 minute", "unknown_fields": "dead-letter"}
    late = timedelta(days=2)
    found = loaded(conn, products(), stream(tags=tags, watermark_delay_threshold=late))
    table, events = found.table("products"), found.stream("changes")
    assert (table.keys, table.id, table.deleted) == (("sku",), "change_id", "gone")
    assert table.oldest == datetime(1995, 1, 1, tzinfo=UTC)
    assert table.by_name["price"].pg_type == "integer"
    assert not table.by_name["gone"].required
    assert table.by_name["sku"].required
    assert events.group == "skewless-shop-changes"
    assert events.time_units == {"changed_at": "ms"}
    assert (events.max_future, events.max_lateness) == (timedelta(minutes=1), late)
    assert (events.unknown, events.missing) == ("dead-letter", "default")
    assert events.dead_letter_topic == "catalogue.dead-letter"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (lambda: [products(tags={**TAGS, "id": "chang_id"})], "Did you mean change_id"),
        (lambda: [products(tags={**TAGS, "keys": "skuu"})], "Did you mean sku"),
        (lambda: [products(tags={**TAGS, "partition": "year"})], "one of month, day"),
        (lambda: [products(tags={**TAGS, "oldest": "long ago"})], "must be a date"),
        (lambda: [products(table="product")], "The table product of a history source"),
        (lambda: [products(), stream(topic="")], "must name its topic"),
        (lambda: [products(tags={}), stream(products(tags={}))], "which history table"),
        (lambda: [products(), stream(tags={"evelope": "debezium"})], "did you mean envelope"),
        (lambda: [products(), stream(tags={"envelope": "maxwell"})], "debezium, cloudevents"),
        (lambda: [products(), stream(tags={"time_unit": "min"})], "one of iso, s, ms"),
        (lambda: [products(), stream(tags={"max_future": "soon"})], "'5 minutes'"),
        (lambda: [products(), stream(field_mapping={"id": "nr"})], "names nr, which is no column"),
        (
            lambda: [products(), *(stream(name=n, tags={"group": "g"}) for n in ("a", "b"))],
            "The streams a and b read topic catalogue in one group",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_sentence(
    conn: psycopg.Connection, sources: Callable[[], list[Any]], said: str
) -> None:
    with pytest.raises(DefinitionError) as error:
        loaded(conn, *sources())
    assert said in str(error.value)


def test_seeds_keep_the_past(conn: psycopg.Connection, tmp_path: Path) -> None:
    """A first row is valid since ever, a changed one from now on; the same again adds nothing."""
    found = loaded(conn, products())
    seed = tmp_path / "products.csv"
    seed.write_text("sku,price\na,1\nb,2\n")
    assert record_seeds(conn, tmp_path, found) == 2
    assert record_seeds(conn, tmp_path, found) == 0
    seed.write_text("sku,price\na,1\nb,3\nc,4\n")
    assert record_seeds(conn, tmp_path, found) == 2
    rows = conn.execute(
        "SELECT sku, price, changed_at = 'epoch', known_at = 'epoch' FROM products ORDER BY 1, 2"
    ).fetchall()
    assert rows == [
        ("a", 1, True, True), ("b", 2, True, True), ("b", 3, False, False), ("c", 4, True, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("product.json", "[]", "Did you mean products"),
        ("products.json", '[{"sku": "a", "prise": 1}]', "Did you mean price"),
        ("products.json", '[{"sku": "a"}, {"price": 1}]', "Row 2"),
        ("products.json", "{", "cannot be read"),
        ("products.json", '[{"sku": null, "price": 1}]', "a row that products refuses"),
        ("products.csv", "sku,price\na,many\n", "a row that products refuses"),
    ],
)
def test_a_wrong_seed_is_one_sentence(
    conn: psycopg.Connection, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DefinitionError) as error:
        record_seeds(conn, tmp_path, loaded(conn, products()))
    assert said in str(error.value)


def test_a_repositorys_file_has_a_name_of_its_own(fresh_database: str, tmp_path: Path) -> None:
    (tmp_path / "0002.control.sql").write_text("SELECT 1")
    with pytest.raises(DefinitionError, match="Skewless's own migrations"):
        migrate(fresh_database, tmp_path)


def test_a_repositorys_file_that_postgresql_refuses(fresh_database: str, tmp_path: Path) -> None:
    (tmp_path / "0001.mine.sql").write_text("CREATE TABLE mine (a integer, a integer)")
    with pytest.raises(DefinitionError, match="refused by PostgreSQL: column"):
        migrate(fresh_database, tmp_path)
