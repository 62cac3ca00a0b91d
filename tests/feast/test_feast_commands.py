"""Feast's own commands drive the repository, as Feast's documentation says."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore
from feast.data_source import PushMode

from extensions import addresses
from extensions.asof.backfill import backfill
from extensions.database import connect
from extensions.local.ports import free_port
from tests.feast.conftest import NOW, Run

VIEWS = {
    "user_watch_stats",
    "user_preferences",
    "user_habits",
    "item_stats",
    "item_profile",
    "user_item_progress",
}


def test_apply_on_an_empty_database_says_what_to_run(
    postgres_server: str, feast: Run, environment: dict[str, str], repo_root: Path
) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        conn.execute("CREATE DATABASE empty_for_apply")
    empty = postgres_server.rpartition("/")[0] + "/empty_for_apply"
    result = subprocess.run(
        [Path(sys.executable).parent / "feast", "apply"],
        cwd=repo_root,
        env={**environment, addresses.POSTGRES_VARIABLE: empty},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert "run `skewless migrate` first" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_apply_then_plan_finds_nothing_to_do(applied: Run) -> None:
    assert "No changes to registry" in applied("plan").stdout


def test_views_and_their_versions_are_listed(applied: Run) -> None:
    listed = applied("feature-views", "list").stdout
    assert {view for view in VIEWS if view in listed} == VIEWS
    assert "v1" in applied("feature-views", "list-versions", "user_watch_stats").stdout


def test_what_a_backfill_logged_is_materialized_and_read_online(
    applied: Run, environment: dict[str, str], computations: dict
) -> None:
    with connect(environment[addresses.POSTGRES_VARIABLE], autocommit=True) as conn:
        for computation in computations.values():
            backfill(conn, computation, NOW - timedelta(days=2), NOW)
    applied("materialize-incremental", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    read = applied(
        "get-online-features",
        "-e", "user_id=1", "-e", "item_id=7",
        "-f", "user_watch_stats:user_watch_count_7d",
        "-f", "item_profile:item_genre",
        "-f", "user_item_progress:user_item_watch_progress",
    ).stdout  # fmt: skip
    assert "5" in read
    assert "drama" in read
    assert "0.5" in read


def test_a_missing_entity_has_the_declared_defaults(store: FeatureStore) -> None:
    online = store.get_online_features(
        features=store.get_feature_service("ranking"),
        entity_rows=[{"user_id": 404, "item_id": 405, "request_hour": 20}],
    ).to_dict()
    assert online["user_watch_count_7d"] == [0]
    assert online["user_genre_preferences"] == [[0.0] * 32]
    assert online["user_avg_watch_duration_min"] == [0.0]
    assert online["user_preferred_hour"] == [20]
    assert online["item_popularity_score"] == [0.0]
    assert online["item_genre"] == ["unknown"]
    assert online["user_item_watch_progress"] == [0.0]
    assert online["user_item_affinity"] == [0.0]
    assert online["hour_closeness"] == [1.0]
    assert online["continue_watching"] == [False]


def test_training_and_serving_agree_for_the_whole_service(store: FeatureStore) -> None:
    # Whole columns of both, the on-demand transforms included, for known and unknown entities.
    rows = [
        {"user_id": 1, "item_id": 7, "request_hour": 3},
        {"user_id": 1, "item_id": 8, "request_hour": 23},
        {"user_id": 404, "item_id": 7, "request_hour": 0},
    ]
    service = store.get_feature_service("ranking")
    online = store.get_online_features(features=service, entity_rows=rows).to_df()
    labels = pd.DataFrame(rows).assign(event_timestamp=datetime.now(UTC))
    training = store.get_historical_features(entity_df=labels, features=service).to_df()
    training = training.set_index(["user_id", "item_id"])
    for column in online.columns.difference(["user_id", "item_id"]):
        for row in online.itertuples(index=False):
            served = getattr(row, column)
            trained = training.loc[(row.user_id, row.item_id), column]
            if column == "user_genre_preferences":
                assert list(served) == list(trained)
            else:
                assert served == trained, column


def test_a_push_reaches_redis_and_the_log(store: FeatureStore, environment: dict[str, str]) -> None:
    at = datetime.now(UTC)
    store.push(
        "user_watch_stats_push",
        pd.DataFrame(
            {
                "user_id": [2],
                "event_timestamp": [at],
                "created_timestamp": [at],
                "user_watch_count_7d": [41],
            }
        ),
        to=PushMode.ONLINE_AND_OFFLINE,
    )
    read = store.get_online_features(
        features=["user_watch_stats:user_watch_count_7d"], entity_rows=[{"user_id": 2}]
    )
    assert read.to_dict()["user_watch_count_7d"] == [41]
    with connect(environment[addresses.POSTGRES_VARIABLE]) as conn:
        logged = conn.execute(
            "SELECT user_watch_count_7d FROM user_watch_stats_v1 WHERE user_id = 2"
        ).fetchall()
    assert logged == [(41,)]


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["serve", "--host", "127.0.0.1", "--port", "{port}"], "/health"),
        (["ui", "--host", "127.0.0.1", "--port", "{port}"], "/"),
    ],
    ids=["serve", "ui"],
)
def test_feasts_own_servers_answer(
    applied: Run,
    environment: dict[str, str],
    repo_root: Path,
    tmp_path: Path,
    command: list[str],
    path: str,
) -> None:
    port = free_port()
    arguments = [part.format(port=port) for part in command]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "feast", *arguments],
            cwd=repo_root,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            assert _answer(f"http://127.0.0.1:{port}{path}", process) == 200
            if command[0] == "serve":
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/get-online-features",
                    json.dumps(
                        {
                            "features": ["user_watch_stats:user_watch_count_7d"],
                            "entities": {"user_id": [404]},
                        }
                    ).encode(),
                    {"content-type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=10) as reply:
                    assert json.loads(reply.read())["results"][1]["values"] == [0]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answer(url: str, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server died"
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return int(reply.status)
        except OSError:
            time.sleep(0.25)
    pytest.fail(f"{url} did not answer")
