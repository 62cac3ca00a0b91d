"""The published incident, from end to end: genres classified wrongly, seen, rolled back, over."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from extensions.asof import load_computations
from extensions.database import connect
from extensions.serving.settings import Settings
from extensions.training import Labels, take
from extensions.versions import retirement
from extensions.versions.maintained_versions import live_computations
from extensions.versions.promotion import promote, rollback
from monitoring.alerts.automatic_rollback import Policy
from monitoring.audit.skew_audit import audit
from monitoring.baseline import take_baseline
from monitoring.checks.drift_schedule import Reaction, Response, check_and_react
from monitoring.checks.drift_store import bind
from monitoring.checks.serving_log_window import Window
from monitoring.verdicts import CRITICAL, OK, WARNING
from tests.served import logged, serving, wait_for
from tests.versions.conftest import World, published_database, world

__all__ = ["published_database", "world"]

ITEMS, REQUESTS, USERS = 20, 50, 8
VIEW = "item_profile"
WRONG = """
SELECT s.item_id, s.as_of,
    CASE WHEN k.genre = 'drama' THEN 'unknown' ELSE coalesce(k.genre, 'unknown') END AS item_genre
FROM spine AS s
LEFT JOIN LATERAL (
    SELECT i.genre FROM items AS i
    WHERE i.item_id = s.item_id AND i.valid_from <= s.as_of AND i.ingested_at <= s.as_of
    ORDER BY i.valid_from DESC, i.ingested_at DESC LIMIT 1
) AS k ON TRUE
"""


def test_a_wrong_classification_is_seen_rolled_back_and_over(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    bind(world.conn, take_baseline(world.store(), training_set(world, tmp_path, rng), "ranking"))
    reactions: list[Reaction] = []
    settings = Settings(repo=world.root, log_rate=1.0)
    begun = datetime.now(UTC)
    for url in serving(settings, world.store()):
        with httpx.Client(base_url=url, timeout=20) as http:
            reactions.append(window(world, http, rng))
            assert verdict(reactions[-1]) == OK

            world.repository.path(f"computations/{VIEW}.v2.sql").write_text(WRONG)
            world.repository.name_version(VIEW, 2)
            world.apply()
            world.refresh()
            promote(world.conn, world.store().project, VIEW, 2, reason="a better classifier")
            wait_for(lambda: served_version(http) == 2)
            # Windows of a schedule are of one length and without a gap.
            start = datetime.now(UTC)
            serve(world, http, rng)
            length = datetime.now(UTC) - start + timedelta(seconds=2)
            pause_until(start + length)
            serve(world, http, rng)
            pause_until(start + 2 * length)
            reactions += [check(world, start + n * length, length) for n in (0, 1)]
            assert [verdict(one) for one in reactions[-2:]] == [CRITICAL, CRITICAL]
            assert [one.rolled_back for one in reactions[:-1]] == [(), ()]
            [done] = reactions[-1].rolled_back
            assert (done.view, done.outcome, done.error) == (VIEW, "v2 -> v1", None)

            wait_for(lambda: served_version(http) == 1)
            reactions.append(window(world, http, rng))
            assert verdict(reactions[-1]) == OK
            assert reactions[-1].rolled_back == ()
    with world.repository.current():
        computations = live_computations(world.conn, load_computations(world.root))
        report = audit(world.store(), computations, begun, datetime.now(UTC))
    assert report.bugs == 0
    assert report.left_out == ()
    compared = {one.feature: one.compared for one in report.features}
    # What a transform made of the second version's genres was compared like all the rest.
    assert compared["ranking_signals:user_item_affinity"] == compared[f"{VIEW}:item_genre"]
    assert report.compared > 4 * REQUESTS * ITEMS
    assert report.compared == report.equal + sum(f.lag + f.version for f in report.features)
    # Had the pointer moved on just before the last window, its values would be another version's.
    last = reactions[-1].run.window_start
    world.conn.execute(
        "INSERT INTO promotions (view_name, kind, from_version, to_version, moved_at, moved_by) "
        "VALUES (%s, 'promote', 1, 2, %s, 'test')", [VIEW, last],
    )  # fmt: skip
    with world.repository.current():
        behind = audit(world.store(), computations, last, datetime.now(UTC))
    named = {one.feature: one for one in behind.features}[f"{VIEW}:item_genre"]
    assert behind.bugs == 0
    assert 0 < named.version < named.compared
    assert {case["class"] for case in named.worst} == {"version"}
    [(reason,)] = world.conn.execute(
        "SELECT reason FROM promotions WHERE kind = 'rollback'"
    ).fetchall()
    assert "critical in 2 windows" in reason
    # A version that is gone can neither be joined nor computed: what it served is left out.
    monkeypatch.setattr(retirement, "NOTICED_AFTER_SECONDS", 0.0)
    retirement.retire(world.store(), world.conn, VIEW, 2, keep_log_days=1)
    with world.repository.current():
        computations = live_computations(world.conn, load_computations(world.root))
        after = audit(world.store(), computations, begun, datetime.now(UTC), entities=0)
    assert after.bugs == 0
    assert set(after.left_out) == {
        "No entities were sampled.",
        f"What {VIEW} v2 served was not compared: it was retired.",
        f"What ranking_signals made of {VIEW} v2 was not compared: it was retired.",
    }
    counts = {one.feature: one.compared for one in after.features}
    label = f"{VIEW}:item_genre"
    assert 0 < counts[label] == counts["ranking_signals:user_item_affinity"] < compared[label]
    # The other views of the same requests were.
    assert (
        counts["item_stats:item_popularity_score"] == compared["item_stats:item_popularity_score"]
    )


def training_set(world: World, folder: Path, rng: random.Random) -> Path:
    now = datetime.now(UTC)
    labels = pa.table(
        {
            "user_id": [rng.randint(1, USERS) for _ in range(4000)],
            "item_id": [rng.randint(1, 24) for _ in range(4000)],
            "request_hour": [rng.randint(0, 23) for _ in range(4000)],
            "event_timestamp": pa.array([now] * 4000, pa.timestamp("us", "UTC")),
        }
    )
    out = folder / "train.parquet"
    return take(world.store(), "ranking", Labels(labels, None, ""), out).manifest_path


def window(world: World, http: httpx.Client, rng: random.Random) -> Reaction:
    """Serve 1,000 rows, then check the window that they fill."""
    start = datetime.now(UTC)
    serve(world, http, rng)
    length = datetime.now(UTC) - start + timedelta(milliseconds=100)
    pause_until(start + length)
    return check(world, start, length)


def serve(world: World, http: httpx.Client, rng: random.Random) -> None:
    with connect(world.database, autocommit=True) as conn:
        before = logged(conn)
        for _ in range(REQUESTS):
            ids = rng.choices(range(1, 25), k=ITEMS)
            body = {"userId": rng.randint(1, USERS), "itemIds": ids,
                    "context": {"requestHour": rng.randint(0, 23)}}  # fmt: skip
            assert http.post("/v1/features/rank", json=body).status_code == 200
        wait_for(lambda: logged(conn) >= before + REQUESTS * ITEMS)


def pause_until(end: datetime) -> None:
    """A window that has not ended is refused."""
    wait_for(lambda: datetime.now(UTC) > end + timedelta(milliseconds=50))


def check(world: World, start: datetime, length: timedelta) -> Reaction:
    # On a slow machine the second batch of two may reach over its window's end.
    response = Response((), Policy(frozenset({VIEW}), 2), roll_back(world), least_rows=300)
    return check_and_react(world.database, Window("ranking", start, start + length), response)


def roll_back(world: World):  # type: ignore[no-untyped-def]
    def run(view: str, reason: str, _evidence: object) -> str:
        moved = rollback(world.conn, world.store().project, view, reason=reason, by="drift")
        return f"v{moved.from_version} -> v{moved.to_version}"

    return run


def verdict(reaction: Reaction) -> str:
    assert reaction.run.error is None
    bad = [f for f in reaction.run.of_view(VIEW) if f.verdict in (WARNING, CRITICAL)]
    return CRITICAL if any(f.verdict == CRITICAL for f in bad) else OK


def served_version(http: httpx.Client) -> int:
    body = {"userId": 1, "itemIds": [1], "context": {"requestHour": 1}}
    reply = http.post("/v1/features/rank?include=meta", json=body).json()
    return int(reply["meta"][VIEW]["version"])
