"""The simulated platform: reproducible, exact in number, and shaped as real ones are."""

import itertools
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from extensions.errors import ConfigurationError, InputError
from extensions.history.simulate import new_simulation, simulate
from feature_repo.simulator import EVENT_SCHEMA, Platform, Simulation, history, live_events
from tests.asof.loading import media_sources
from tests.conftest import REPO_ROOT
from tests.history.tables import count, empty, fetch

UNTIL = datetime(2026, 3, 2, 9, 30, 0, 123_456, tzinfo=UTC)
SMALL = Simulation(users=300, items=80, days=9, events=5_000, seed=3, until=UNTIL)
LARGE = Simulation(users=4_000, items=2_000, days=28, events=300_000, seed=5, until=UNTIL)


def table(simulation: Simulation, **options: int) -> pa.Table:
    return pa.Table.from_batches(list(history(simulation, **options)), EVENT_SCHEMA)


@pytest.fixture(scope="module")
def large() -> pd.DataFrame:
    return table(LARGE).to_pandas()


@pytest.fixture(scope="module")
def watches(large: pd.DataFrame) -> pd.DataFrame:
    return large.drop_duplicates("event_id")


@pytest.mark.parametrize("rows", [1, 7, 1_000, 65_536])
def test_equal_simulations_give_equal_bytes_whatever_the_batch_size(rows: int) -> None:
    batches = list(history(SMALL, rows=rows))
    assert all(batch.num_rows == rows for batch in batches[:-1])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, EVENT_SCHEMA) as writer:
        writer.write_table(pa.Table.from_batches(batches).combine_chunks())
    again = pa.BufferOutputStream()
    with pa.ipc.new_stream(again, EVENT_SCHEMA) as writer:
        writer.write_table(table(replace(SMALL)).combine_chunks())
    assert sink.getvalue().equals(again.getvalue())


def test_another_seed_is_another_history() -> None:
    assert not table(SMALL).equals(table(replace(SMALL, seed=4)))


def test_counts_are_exact_and_nothing_arrives_after_the_end(large: pd.DataFrame) -> None:
    assert len(large) == LARGE.event_deliveries == 301_500
    assert large.event_id.nunique() == LARGE.events
    assert large.ingested_at.is_monotonic_increasing
    assert large.ingested_at.max() <= UNTIL
    assert (large.watched_at <= large.ingested_at).all()
    assert large.watched_at.min() >= UNTIL - timedelta(days=28, milliseconds=1)


def test_a_duplicate_is_the_same_event_delivered_later(large: pd.DataFrame) -> None:
    copies = large[large.duplicated("event_id", keep=False)].sort_values(
        ["event_id", "ingested_at"], kind="stable"
    )
    first, second = copies.iloc[::2].reset_index(), copies.iloc[1::2].reset_index()
    assert len(first) == len(second) == 1_500
    same = ["event_id", "user_id", "item_id", "watched_at", "duration_ms", "progress"]
    pd.testing.assert_frame_equal(first[same], second[same])
    assert (second.ingested_at >= first.ingested_at).all()


def test_popularity_and_activity_have_heavy_tails(watches: pd.DataFrame) -> None:
    per_item = watches.item_id.value_counts()
    assert 0.35 < per_item.iloc[:20].sum() / len(watches) < 0.75  # the top 1 % of 2,000
    per_user = watches.user_id.value_counts()
    assert 0.08 < per_user.iloc[:40].sum() / len(watches) < 0.35
    assert per_user.median() < per_user.mean() < per_user.max() / 10


def test_each_user_keeps_to_an_hour_and_to_few_genres(watches: pd.DataFrame) -> None:
    world = Platform(LARGE)
    genre = pd.Series(world.item_genre, index=world.item_ids)
    busy = watches[watches.user_id.map(watches.user_id.value_counts()) >= 100]
    angle = 2 * np.pi * (busy.watched_at.dt.hour + busy.watched_at.dt.minute / 60) / 24
    by_user = pd.DataFrame({"user": busy.user_id, "x": np.cos(angle), "y": np.sin(angle)})
    concentration = np.hypot(*by_user.groupby("user").mean()[["x", "y"]].to_numpy().T)
    assert np.median(concentration) > 0.7
    everyone = np.hypot(np.cos(angle).mean(), np.sin(angle).mean())
    assert everyone < np.median(concentration) - 0.15
    share = busy.groupby("user_id").item_id.agg(
        lambda items: items.map(genre).value_counts(normalize=True).iloc[0]
    )
    assert share.median() > 0.4


def test_weekends_are_busier_and_every_hour_is_used(watches: pd.DataFrame) -> None:
    per_day = watches.groupby(watches.watched_at.dt.dayofweek).size()
    assert per_day[[5, 6]].mean() > 1.25 * per_day[[0, 1, 2]].mean()
    assert watches.watched_at.dt.hour.nunique() == 24


def test_some_events_are_late_by_hours_or_days(watches: pd.DataFrame) -> None:
    lag = (watches.ingested_at - watches.watched_at).dt.total_seconds()
    assert 0.015 < (lag >= 900).mean() < 0.025
    assert lag.max() > 86_400
    assert 0.5 < lag.median() < 5


def test_durations_and_progress_agree_with_the_items_length(watches: pd.DataFrame) -> None:
    world = Platform(LARGE)
    length = watches.item_id.map(pd.Series(world.item_length_ms, index=world.item_ids))
    assert (watches.duration_ms <= length).all()
    expected = (watches.duration_ms / length).astype("float32")
    np.testing.assert_array_equal(watches.progress, expected)
    assert 0.05 < (watches.progress == 1).mean() < 0.5


def test_items_are_watched_after_their_release_and_some_change_genre(
    watches: pd.DataFrame,
) -> None:
    items = Platform(LARGE).item_history().to_pandas()
    released = items.groupby("item_id").valid_from.min()
    assert len(released) == LARGE.items
    assert (watches.watched_at > watches.item_id.map(released)).all()
    assert released.between(UNTIL - timedelta(days=28), UNTIL).mean() > 0.05
    assert not items.duplicated(["item_id", "valid_from", "ingested_at"]).any()
    assert items.ingested_at.max() <= UNTIL
    moved = items[items.duplicated("item_id", keep=False)].sort_values("valid_from")
    assert 20 <= moved.item_id.nunique() <= 60
    assert (moved.groupby("item_id").genre.nunique() == 2).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"users": 1, "items": 1, "days": 1, "events": 10},
        {"events": 0},
        {"events": 1},
        {"days": 1},
        {"genres": ("only",)},
        {"late_share": 1.0, "duplicate_share": 1.0},
        {"items": 3, "users": 2},
    ],
)
def test_small_platforms_work(changes: dict) -> None:
    simulation = replace(SMALL, **changes)
    events = table(simulation)
    assert events.num_rows == simulation.event_deliveries
    assert set(events.column("item_id").to_pylist()) <= set(range(1, simulation.items + 1))
    assert events.num_rows == 0 or events.to_pandas().ingested_at.max() <= UNTIL
    assert Platform(simulation).item_history().num_rows >= simulation.items


@pytest.mark.parametrize(
    "wrong",
    [{"users": 0}, {"events": -1}, {"until": datetime(2026, 1, 1)}, {"late_share": 2.0}],  # noqa: DTZ001
)
def test_impossible_simulations_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its message is the simulator's own
        replace(SMALL, **wrong)
    with pytest.raises(InputError):
        new_simulation(REPO_ROOT, **wrong)


def test_a_repository_without_a_simulator_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["extensions.history.simulate"]
    monkeypatch.setattr(module, "SIMULATOR", "feature_repo.no_simulator")
    with pytest.raises(ConfigurationError, match="has no simulator"):
        new_simulation(tmp_path)


def test_live_events_have_the_published_shape() -> None:
    moments = itertools.count()
    events = live_events(SMALL, clock=lambda: UNTIL + timedelta(seconds=next(moments)))
    taken = list(itertools.islice(events, 600))
    assert taken[0].keys() == {
        "eventId", "userId", "itemId", "watchDurationMin", "progress", "watchedAt",
    }  # fmt: skip
    assert taken[1]["watchedAt"] == "2026-03-02T09:30:01.123Z"
    assert len({event["eventId"] for event in taken}) == 600
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", e["eventId"])
               for e in taken)  # fmt: skip
    assert all(1 <= event["userId"] <= 300 and 0 <= event["progress"] <= 1 for event in taken)
    assert all((event["watchDurationMin"] * 60_000) == pytest.approx(
        round(event["watchDurationMin"] * 60_000), abs=1e-6) for event in taken)  # fmt: skip
    other = next(live_events(SMALL, stream=1))
    assert (other["userId"], other["itemId"]) != (taken[0]["userId"], taken[0]["itemId"])


def test_simulating_into_a_database_twice_adds_nothing(database: str) -> None:
    empty(database)
    seen: list[tuple[int, int | None]] = []
    sources = media_sources(database)
    first = simulate(database, SMALL, sources, progress=lambda *call: seen.append(call))
    events = first.loads["watch_events"]
    assert list(first.loads) == list(SMALL.deliveries) == ["items", "watch_events"]
    assert first.largest is events
    assert events.inserted == SMALL.events == count(database)
    assert events.duplicates == SMALL.event_deliveries - SMALL.events
    total = sum(SMALL.deliveries.values())
    assert seen[-1] == (total, total)
    assert count(database, "watch_events_default") == 0
    again = simulate(database, SMALL, sources)
    assert [each.inserted for each in again.loads.values()] == [0, 0]
    assert count(database) == SMALL.events
    genres = {row[0] for row in fetch(database, "SELECT DISTINCT genre FROM items")}
    assert genres <= set(SMALL.genres)
    assert again.to_json()["loads"]["watch_events"]["duplicates"] == SMALL.event_deliveries
