"""Grafana's dashboards: rendered, and answered by a Prometheus that scrapes the running stack."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import promql_parser
import psycopg
import pytest
import redis
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from kafka import KafkaProducer
from psycopg import sql

from benchmarks import drift_platform
from extensions import addresses
from extensions.local.ports import free_port
from extensions.repository import repo_root
from monitoring.alerts import incidents
from monitoring.checks import drift_store
from monitoring.checks.drift_store import Run
from monitoring.verdicts import CRITICAL, Finding
from tests.deploy.metrics import queried
from tests.deploy.prometheus import Prometheus, programs, scraping

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
PROGRAM = Path(sys.executable).parent / "skewless"
# What Grafana puts there: four scrapes, at least.
RATE_INTERVAL = "30s"


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", GRAFANA / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RENDER = renderer()
QUERIES = {
    f"{name}: {panel['title']}: {legend}": str(query)
    for name, dashboard in RENDER.declared().items()
    for panel in dashboard["panels"]
    for legend, query in panel["queries"].items()
}


def exact(query: str) -> str:
    return query.replace("$__rate_interval", RATE_INTERVAL)


@pytest.mark.parametrize("name", RENDER.declared())
def test_a_file_is_what_its_declaration_renders(name: str) -> None:
    text = (GRAFANA / f"{name}.json").read_text()
    assert text == RENDER.rendered(name, RENDER.declared()[name]), "run deploy/grafana/render.py"
    dashboard = json.loads(text)
    panels = dashboard["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["description"].endswith(".")


def test_there_is_no_file_without_a_declaration() -> None:
    assert {path.stem for path in GRAFANA.glob("*.json")} == RENDER.declared().keys()


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_is_promql(query: str) -> None:
    promql_parser.parse(exact(query))


@pytest.mark.timeout(600)
def test_every_query_has_an_answer_on_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(found := programs(), str):
        pytest.skip(found)
    (tmp_path / "prometheus").mkdir()
    worker, watch = free_port(), free_port()
    with stack(tmp_path, worker) as state:
        for name in [name for name in os.environ if name.startswith("SKEWLESS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv(addresses.HOME_VARIABLE, str(tmp_path))
        environment = dict(os.environ)
        run(environment, "simulate", "--users", "300", "--items", "100", "--events", "6000")
        run(environment, "refresh")
        watching = subprocess.Popen(
            [PROGRAM, "drift", "watch", "--metrics-port", str(watch)], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            jobs = {"serving": int(state["http"].rpartition(":")[2]), "stream": worker}
            with scraping(tmp_path / "prometheus", jobs | {"monitoring": watch}) as prometheus:
                make_it_happen(state)
                run(environment, "audit", "--since", "1h", expected=range(5))
                without = unanswered(prometheus, seconds=90)
                assert without == [], (tmp_path / "ingest.log").read_text()[-3_000:]
                # A query of a metric that does not exist has none: the test can fail.
                assert not prometheus.ask("skewless_no_such_metric")
        finally:
            watching.terminate()
            watching.wait(30)


def unanswered(prometheus: Prometheus, seconds: float) -> list[str]:
    """The queries that still have no answer after ``seconds``."""
    deadline, left = time.monotonic() + seconds, dict(QUERIES)
    while left and time.monotonic() < deadline:
        left = {name: query for name, query in left.items() if not prometheus.ask(exact(query))}
        time.sleep(1)
    return list(left)


@contextmanager
def stack(home: Path, metrics_port: int) -> Iterator[dict[str, str]]:
    """`skewless up` until the block ends; the addresses of what it runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    port = free_port()
    command = [PROGRAM, "up", "--port", str(port), "--metrics-port", str(metrics_port)]
    log = home / "up.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env={**kept, addresses.HOME_VARIABLE: str(home)}, stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + 200
        while "Ctrl-C" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield json.loads((home / "stack.json").read_text())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def run(environment: dict[str, str], *arguments: str, expected: Any = (0,)) -> None:
    done = subprocess.run(
        [PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode in expected, done.stderr[-2_000:]


def make_it_happen(state: dict[str, str]) -> None:
    """All that the panels with ``needs`` show."""
    with psycopg.connect(state["postgres"], autocommit=True) as conn:
        # One entity of a view, and another view altogether, whose values the log does not take.
        refuse(conn, "user_watch_stats_v1", "NEW.user_id = 7")
        refuse(conn, "user_item_progress_v1", "true")
        send_events(state["kafka"])
        drift(conn)
        # A view that nobody has refreshed for long.
        refuse(conn, "item_stats_v1", "true")
        conn.execute("UPDATE watermarks SET processed_through = now() - interval '9 days'")
        serve_old_row(item=2)
        ask(state["http"], redis.Redis.from_url(state["redis"]))
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'skewless ingest'"
        )
        send_events(state["kafka"])
        ask(state["http"], redis.Redis.from_url(state["redis"]))


def serve_old_row(item: int) -> None:
    """The online row of ``item`` is one of nine days ago."""
    store = FeatureStore(str(repo_root()))
    view = store.get_feature_view("item_stats")
    entity = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=item)])
    then = datetime.now(UTC) - timedelta(days=9)
    values = {"item_popularity_score": Value(float_val=1)}
    online = store._get_provider().online_store
    online.delete_entity_values(store.config, ["item_id"])
    online.online_write_batch(store.config, view, [(entity, values, then, then)], None)


def refuse(conn: psycopg.Connection, table: str, condition: str) -> None:
    """From now on the log does not take rows for which ``condition`` holds."""
    conn.execute(
        sql.SQL(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF {condition} THEN RAISE division_by_zero; END IF; RETURN NEW; END $$"
        ).format(name=sql.Identifier(f"refuse_{table}"), condition=sql.SQL(condition))
    )
    conn.execute(
        sql.SQL("CREATE TRIGGER refuse BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION {}()")
        .format(sql.Identifier(table), sql.Identifier(f"refuse_{table}"))
    )  # fmt: skip


def send_events(bootstrap: str) -> None:
    """Watches of many users at once, one of user 7, and a message that is none."""
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for user in range(1, 40):
        event = {"userId": user, "itemId": 3, "watchDurationMin": 5, "progress": 0.5}
        producer.send("watch-events", json.dumps(event).encode(), key=str(user).encode())
    producer.send("watch-events", b"no event")
    producer.flush()
    producer.close()


def ask(url: str, client: redis.Redis) -> None:
    """Requests of known and unknown users, a bad one, and one of a row that is damaged."""
    with httpx.Client(base_url=url, timeout=20) as http:
        # Of a hundred requests one is logged: so many that some are.
        for _ in range(200):
            http.get("/v1/features/user/1").raise_for_status()
            ranking = {"userId": 2, "itemIds": [1, 2, 3, 99_999]}
            http.post("/v1/features/rank", json=ranking).raise_for_status()
            http.get("/v1/features/user/987654321").raise_for_status()
            assert http.get("/v1/features/user/no-id").is_client_error
        [key] = list(client.scan_iter("*:user_id:5"))
        whole = client.get(key)
        assert isinstance(whole, bytes)
        broken = bytearray(whole)
        broken[4] ^= 0xFF  # the first section's fingerprint
        client.set(key, bytes(broken))
        http.get("/v1/features/user/5").raise_for_status()


def drift(conn: psycopg.Connection) -> None:
    """A critical window with its incident, a message that waits, and a rollback."""
    service, view = drift_platform.SERVICE, "item_stats"
    identity = drift_store.bind(conn, drift_platform.baseline(rows=500))
    finding = Finding(f"{view}:genre", "unseen", 0.3, 1e-9, 0.01, 0.03, CRITICAL)
    start = drift_platform.START
    window = (start, start + drift_platform.HOUR)
    run_ = Run(service, *window, identity, CRITICAL, 1000, (finding,))
    drift_store.record(conn, run_)
    incidents.follow(conn, run_, ())
    [incident] = conn.execute("SELECT incident_id FROM drift_incidents").fetchall()
    conn.execute(
        "INSERT INTO drift_rollbacks (incident_id, view_name, evidence) VALUES (%s, %s, '{}')",
        [*incident, view],
    )
    conn.execute(
        "INSERT INTO drift_notifications (incident_id, message, channel, attempts) "
        "VALUES (%s, 'opened', 'slack', 1)",
        incident,
    )


def test_each_query_is_over_metrics_that_exist() -> None:
    for query in QUERIES.values():
        assert queried(query)
    with pytest.raises(AssertionError, match="no program exports"):
        queried("rate(skewless_stream_event_total[5m])")
