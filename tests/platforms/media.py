"""The media platform: random users with whole-number ids, and in plain Python what is true."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.oracle.answers import VIEWS, Answer
from tests.oracle.records import Classification, GenrePlace, History, Watch
from tests.platforms.description import (
    Keys,
    Platform,
    Routes,
    Row,
    Rows,
    SecondVersion,
    copy_repository,
)
from tests.versions.repositories import REPO_ROOT, Repository

GENRES = ["comedy", "drama", "É", "nowhere"]
USERS = [901, 1901, 90, 9, 0, 902]
ITEMS = [901, 1901, 90, 9, 0, 902, 19, 99]


def history(users: list[Any], items: list[Any], rng: Random, end: datetime) -> Rows:
    """Rows of 45 days before ``end``, by whole hours; some arrive days late, some early."""

    def times() -> tuple[datetime, datetime]:
        at = end - timedelta(hours=rng.randint(0, 45 * 24))
        late = rng.choice([0, 0, 0, 1, 1, -90, 60, 3600, 86400 * 3])
        return at, at + timedelta(seconds=late)

    watches = []
    for number in range(260):
        at, known = times()
        watches.append(
            {
                "event_id": f"id{number:04}", "user_id": rng.choice(users[:5]),
                "item_id": rng.choice(items[:7]), "watched_at": at, "ingested_at": known,
                "duration_ms": rng.randint(0, 7_200_000), "progress": rng.randint(0, 64) / 64,
            }
        )  # fmt: skip
    classified: dict[Any, Row] = {}
    for _ in range(60):
        item, (at, known) = rng.choice(items[:7]), times()
        row = {"item_id": item, "genre": rng.choice(GENRES), "valid_from": at, "ingested_at": known}
        classified.setdefault((item, at, known), row)
    places = [
        {
            "genre": genre, "ingested_at": end - timedelta(days=day, hours=place),
            "embedding": [float(np.float32(rng.uniform(0.1, 1))) for _ in range(32)],
        }
        for place, genre in enumerate(GENRES[:3])
        for day in (44, 12, 2)
    ]  # fmt: skip
    found = {"watch_events": watches, "items": [*classified.values()], "genres": places}
    return {name: sorted(rows, key=lambda row: row["ingested_at"]) for name, rows in found.items()}


class _Records:
    """Rows as the oracle's records; those of the rows that were asked about last are kept."""

    def __init__(self) -> None:
        self._rows: Rows | None = None
        self._history = History()

    def of(self, rows: Rows) -> History:
        if rows is not self._rows:
            self._rows = rows
            self._history = History(
                tuple(Watch(**row) for row in rows.get("watch_events", ())),
                tuple(Classification(**row) for row in rows.get("items", ())),
                tuple(
                    GenrePlace(row["genre"], tuple(row["embedding"]), row["ingested_at"])
                    for row in rows.get("genres", ())
                ),
            )
        return self._history


_RECORDS = _Records()


def _answer(view: str, rows: Rows, keys: Keys, as_of: datetime) -> Answer:
    return VIEWS[view](_RECORDS.of(rows), keys, as_of)


def oracle() -> Mapping[str, Callable[[Rows, Keys, datetime], Answer]]:
    """The oracle of `tests.oracle`, by view."""
    return {view: partial(_answer, view) for view in VIEWS}


def entities(
    users: list[Any], items: list[Any], rows: Rows, join_keys: tuple[str, ...]
) -> list[Keys]:
    """All of them, also those without a row."""
    if join_keys == ("user_id",):
        return [(user,) for user in users]
    if join_keys == ("item_id",):
        return [(item,) for item in items]
    return [(user, item) for user in users for item in items]


def message(source: str, row: Row) -> bytes:
    """The published event."""
    assert source == "watch_events"
    return json.dumps(
        {
            "eventId": row["event_id"], "userId": row["user_id"], "itemId": row["item_id"],
            "watchDurationMin": row["duration_ms"] / 60_000, "progress": row["progress"],
            "watchedAt": row["watched_at"].isoformat(),
        }
    ).encode()  # fmt: skip


def _declare(repository: Repository) -> None:
    repository.name_version("item_profile", 2)


ROUTES = Routes(
    page="home_page",
    page_path=lambda user: f"/v1/features/user/{user}",
    page_names=("userId", "features"),
    rank="ranking",
    rank_path="/v1/features/rank",
    rank_names=("userId", "itemIds", "itemId"),
    groups=("userFeatures", "itemFeatures", "interactionFeatures"),
    context=("request_hour", "requestHour", 23),
)
# Genres of which the second version knows nothing: about half of the simulated items.
SECOND = SecondVersion(
    view="item_profile",
    feature="item_genre",
    old="SELECT k.genre\n",
    new="SELECT CASE WHEN k.genre >= 'e' THEN k.genre END AS genre\n",
    answer=lambda answer: answer if answer[0].encode() >= b"e" else ("unknown",),
    declare=_declare,
)


def media(copy: Callable[[Path], object], users: list[Any], items: list[Any]) -> Platform:
    """The platform with ids of a type."""
    [user] = {type(user) for user in users}
    return Platform(
        copy=copy,
        parameters={"users": 30, "items": 30, "days": 40, "events": 2_500, "seed": 5},
        history=partial(history, users, items),
        oracle=oracle(),
        entities=partial(entities, users, items),
        message=message,
        refused=(
            "watch_events",
            [{"duration_ms": -1}, {"progress": 1.5}, {"user_id": None}, {"duration_ms": None}],
        ),
        bad={
            "watch_events": [
                b"{", b'{"userId": 1}', b"\xff",
                json.dumps(
                    {"userId": "x" if user is int else 1, "itemId": items[0],
                     "watchDurationMin": 1, "progress": 0.5}
                ).encode(),
            ]
        },
        routes=ROUTES,
        second=SECOND,
        float32_steps={view: each.float32_steps for view, each in VIEWS.items()},
    )  # fmt: skip


PLATFORM = media(partial(copy_repository, REPO_ROOT), USERS, ITEMS)
