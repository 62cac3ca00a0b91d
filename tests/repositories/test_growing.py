"""A repository grows while it runs: a first stream, a column, another; nobody restarts anything.

Adding a column is one migration and, since it is in the stream, one line of the schema.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.repositories.places import Running, done, new_repository, run, up, visit

COLUMN = "ALTER TABLE visits ADD COLUMN seconds integer CHECK (seconds >= 0);\n"
LINE = '    "page": {"type": "string"},\n'
VIEW = """

visitor_seconds = FeatureView(
    name="visitor_seconds",
    version="v1",
    description="How long a visitor has stayed lately.",
    entities=[visitor],
    ttl=timedelta(0),
    schema=[Field(name="seconds_7d", dtype=Int64, tags={"default": "0"})],
    source=log("visitor_seconds", 1),
    tags={"freshness": "realtime", "horizon": "7 days", "reads": "visits"},
)
"""
TEXT = """
SELECT s.visitor_id, s.as_of, coalesce(sum(v.seconds), 0)::bigint AS seconds_7d
FROM spine AS s
LEFT JOIN visits AS v
    ON
        v.visitor_id = s.visitor_id AND v.visited_at > s.as_of - interval '168 hours'
        AND v.visited_at <= s.as_of AND v.ingested_at <= s.as_of
GROUP BY s.visitor_id, s.as_of
"""
SERVICE = """

seconds = FeatureService(name="seconds", features=["visitor_seconds"])
"""
ORDERS = """
CREATE TABLE orders (
    visitor_id text COLLATE "C" NOT NULL,
    ordered_at timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
STREAM = """

orders = PostgreSQLSource(
    name="orders", table="orders", timestamp_field="ordered_at",
    created_timestamp_column="ingested_at", tags={"keys": "visitor_id"},
)
orders_stream = KafkaSource(
    name="orders_stream", topic="orders", kafka_bootstrap_servers="",
    timestamp_field="ordered_at", batch_source=orders, message_format=JsonFormat(schema_json=""),
)
"""


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def rows(running: Running, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(running.addresses["postgres"]) as conn:
        return conn.execute(query).fetchall()


def becomes(running: Running, query: str, wanted: list[tuple[Any, ...]]) -> None:
    deadline = time.monotonic() + 60
    while (found := rows(running, query)) != wanted:
        assert time.monotonic() < deadline, (found, wanted, running.worker_log())
        time.sleep(0.2)


def until_logged(running: Running, words: str) -> None:
    deadline = time.monotonic() + 60
    while words not in " ".join(running.worker_log().split()):
        assert time.monotonic() < deadline, running.worker_log()
        time.sleep(0.2)


@pytest.mark.timeout(300)
def test_a_column_and_a_stream_while_it_runs(tmp_path: Path) -> None:
    shop = new_repository(tmp_path / "shop")
    repo = shop / "feature_repo"
    with_stream = (repo / "sources.py").read_text()
    head, _, tail = with_stream.partition("visits_stream = KafkaSource(")
    (repo / "sources.py").write_text(head + tail.partition("\n)\n")[2])
    with up(shop) as running:
        # The worker waits for the first stream.
        until_logged(running, "declares no stream: waiting")
        (repo / "sources.py").write_text(with_stream)
        done(run("skewless", "apply", cwd=shop))
        until_logged(running, "The declared streams have changed")
        running.send("visits", visit(1, "v", "a"))
        running.becomes({"visits_7d": 1, "last_page_7d": "a"}, "visitor", visitor_id="v")

        # A column: one migration, and one line.
        (repo / "history" / "0002.seconds.sql").write_text(COLUMN)
        edit(repo / "sources.py", LINE, LINE + '    "seconds": {"type": "integer"},\n')
        # A stream: its table and its source; and a view that reads the column.
        (repo / "history" / "0003.orders.sql").write_text(ORDERS)
        append(repo / "sources.py", STREAM)
        append(repo / "views.py", VIEW)
        append(repo / "services.py", SERVICE)
        (repo / "computations" / "visitor_seconds.v1.sql").write_text(TEXT)
        done(run("skewless", "migrate", cwd=shop))
        done(run("skewless", "apply", cwd=shop))

        running.send("visits", visit(2, "v", "b") | {"seconds": 30})
        now = datetime.now(UTC).isoformat()
        running.send("orders", {"visitor_id": "v", "ordered_at": now})
        becomes(running, "SELECT count(*) FROM orders", [(1,)])
        becomes(running, "SELECT page, seconds FROM visits ORDER BY 1", [("a", None), ("b", 30)])
        assert running.worker_log().count("The declared streams have changed") in (2, 3)
        assert "died" not in running.worker_log()

        # The import knows the column, too; the old view is as it was, the new one sees all.
        file = tmp_path / "more.csv"
        header = "visit_id,visitor_id,page,visited_at,seconds"
        file.write_text(f"{header}\nx,v,c,{datetime.now(UTC).isoformat()},12\ny,v,c,{now},-1\n")
        said = run("skewless", "import", "visits", file, cwd=shop)
        assert "visits_seconds_check" in said.stdout + said.stderr
        running.becomes({"visits_7d": 3, "last_page_7d": "c"}, "visitor", visitor_id="v")
        running.becomes({"seconds_7d": 42}, "seconds", visitor_id="v")
