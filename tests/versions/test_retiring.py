"""Retire: refused while used; then gone from Redis, from the work and in time from PostgreSQL."""

import pytest
from psycopg import sql

from extensions.asof import load_computations
from extensions.errors import SkewlessError
from extensions.operations import doctor
from extensions.stores.log_publishing import latest, write_query
from extensions.stores.registry.version_store import find, published
from extensions.versions import retirement
from extensions.versions.maintained_versions import live_computations
from extensions.versions.online_sample import leftovers
from extensions.versions.promotion import promote
from extensions.versions.retirement import finish_retired, retire
from extensions.versions.version_state_check import disagreements
from tests.versions.conftest import World, held_by_another


@pytest.fixture(autouse=True)
def nobody_else_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retirement, "NOTICED_AFTER_SECONDS", 0.0)


def logs(world: World) -> set[str]:
    rows = world.conn.execute(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname ~ '_v[0-9]+$'"
    ).fetchall()
    return {name for (name,) in rows}


@pytest.mark.parametrize("view", ["user_watch_stats", "item_stats"])
def test_a_retired_version_leaves_nothing_and_touches_nothing_else(world: World, view: str) -> None:
    world.repository.second_version(view)
    world.apply()
    promote(world.conn, "skewless", view, 2)
    before = world.online("user_watch_stats:user_watch_count_7d",
                          "user_habits:user_avg_watch_duration_min", user_id=1)  # fmt: skip
    everything = logs(world)
    done = retire(world.store(), world.conn, view, 1)
    assert done.online_removed
    assert done.log_drops_at is None
    assert logs(world) == everything - {f"{view}_v1"}
    assert leftovers(world.store(), find(world.conn, view, 1), 10_000) == 0
    assert f"{view}.v1" not in live_computations(world.conn, {})
    assert world.online("user_watch_stats:user_watch_count_7d",
                        "user_habits:user_avg_watch_duration_min", user_id=1) == before  # fmt: skip
    assert disagreements(world.store(), world.conn) == []
    with pytest.raises(SkewlessError, match="was retired and its values are gone"):
        promote(world.conn, "skewless", view, 1)
    # Its number is used up.
    world.repository.name_version(view, 1)
    with pytest.raises(SkewlessError, match="was retired and its number is used up: make v3"):
        world.apply()


def test_doctor_knows_that_a_retired_version_is_not_applied_again(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    retire(world.store(), world.conn, "item_stats", 2)
    with world.repository.current():
        found = doctor._registry(world.store(), load_computations(world.root), world.conn)
    assert found == doctor.Finding(
        "registry",
        ok=False,
        found="the files name what was retired: item_stats.v2",
        advice="`skewless plan` says which version they may name.",
    )


def test_the_log_may_be_kept_for_days(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    promote(world.conn, "skewless", "item_stats", 2)
    done = retire(world.store(), world.conn, "item_stats", 1, keep_log_days=30)
    assert done.log_drops_at is not None
    assert "item_stats_v1" in logs(world)
    assert disagreements(world.store(), world.conn) == []
    world.conn.execute("UPDATE view_versions SET drop_log_at = now() WHERE state = 'retired'")
    world.conn.execute("INSERT INTO log_cuts VALUES ('item_stats_v1', now(), now(), now(), 1, 1)")
    assert [d.what for d in disagreements(world.store(), world.conn)] == [
        "v1 is retired and not all of it is removed"
    ]
    assert finish_retired(world.store(), world.conn) == ["the log item_stats_v1"]
    assert "item_stats_v1" not in logs(world)
    assert world.conn.execute("SELECT count(*) FROM log_cuts").fetchone() == (0,)
    assert disagreements(world.store(), world.conn) == []


def test_what_is_used_stays(world: World) -> None:
    with pytest.raises(SkewlessError, match=r"item_stats\.v1 is used by ranking"):
        retire(world.store(), world.conn, "item_stats", 1)
    world.repository.second_version("item_stats")
    world.repository.path("services.py").open("a").write(
        '\nold = FeatureService(name="old", features=["item_stats@v1"])\n'
    )
    world.apply()
    promote(world.conn, "skewless", "item_stats", 2)
    with pytest.raises(SkewlessError, match=r"item_stats\.v1 is used by old: point it at another"):
        retire(world.store(), world.conn, "item_stats", 1)
    assert [one.state for one in published(world.conn, "item_stats")] == ["live", "active"]


WITHOUT_VIEWS = '''

@on_demand_feature_view(
    sources=[request_context],
    schema=[Field(name="hour_closeness", dtype=Float32)],
    mode="pandas",
    version="v2",
)
def ranking_signals(inputs: pd.DataFrame) -> pd.DataFrame:
    """Of the request alone."""
    return pd.DataFrame({"hour_closeness": inputs["request_hour"].astype("float32")})
'''


def test_what_an_older_transform_reads_stays(world: World) -> None:
    """It is served to who names it, though the default does not read the view any more."""
    path = world.repository.path("transforms.py")
    text = path.read_text()
    path.write_text(text[: text.index("\n\n@on_demand_feature_view(")] + WITHOUT_VIEWS)
    world.repository.path("services.py").write_text(
        "from feast import FeatureService\n"
        'old = FeatureService(name="old", features=["ranking_signals@v1"])\n'
    )
    world.apply()
    promote(world.conn, "skewless", "ranking_signals", 2)
    with pytest.raises(SkewlessError, match=r"user_habits is read by the transform ranking_signa"):
        retire(world.store(), world.conn, "user_habits", 1)
    world.repository.path("services.py").write_text("")
    world.apply()
    retire(world.store(), world.conn, "ranking_signals", 1)
    retire(world.store(), world.conn, "user_habits", 1)
    assert world.states("user_habits") == {1: "retired"}


def test_who_retires_while_another_moves_the_pointer_is_told_so(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    changing = "Another operator is changing item_stats"
    with held_by_another(world, "item_stats"), pytest.raises(SkewlessError, match=changing):
        retire(world.store(), world.conn, "item_stats", 2)
    assert world.states("item_stats") == {1: "active", 2: "live"}


def test_a_straggler_s_rows_are_found_and_removed(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    promote(world.conn, "skewless", "item_stats", 2)
    computation = live_computations(world.conn, {})["item_stats.v1"]
    retire(world.store(), world.conn, "item_stats", 1, keep_log_days=1)
    one = find(world.conn, "item_stats", 1)
    write_query(world.store(), retirement.feast_view(one), latest(computation, sql.SQL("true")))
    assert any("Redis holds rows" in d.what for d in disagreements(world.store(), world.conn))
    retire(world.store(), world.conn, "item_stats", 1)
    assert disagreements(world.store(), world.conn) == []
