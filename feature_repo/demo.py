"""What `skewless demo` shows of this platform: labels, requests, live events and a file.

The engine imports this module by its name (``feature_repo.demo``) and uses what it defines:
``LABELS`` (SQL over the history, with ``event_timestamp``), ``SERVICE``, and `Demo`, made from the
labels.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

LABELS = """
SELECT
    user_id, item_id, watched_at AS event_timestamp,
    extract(HOUR FROM watched_at AT TIME ZONE 'UTC')::bigint AS request_hour,
    (progress > 0.7)::int AS finished
FROM watch_events WHERE watched_at > now() - interval '20 hours' LIMIT 10000
"""
SERVICE = "ranking"

_RANKED_ITEMS = 100
# Ids from here on are of users that the simulation has not.
_NEW_USERS = 1_000_000_000


class Demo:
    """One user of the labels, and items to rank for that user.

    Attributes:
        value: The feature that is watched; `page` and `count` say where it is served.
        topic: Where live events are sent.
        source: The history source that the file is imported into.
    """

    value = "user_watch_count_7d"
    topic = "watch-events"
    source = "watch_events"

    def __init__(self, labels: pd.DataFrame) -> None:
        # As Python's own types, whether ids are whole numbers or texts.
        [self._user, *_] = labels["user_id"].mode().tolist()
        self._items = labels["item_id"].drop_duplicates().tolist()[:_RANKED_ITEMS]
        self.page = f"/v1/features/user/{self._user}"

    def requests(self) -> dict[str, tuple[str, Any]]:
        """By what they are: a path, and the body of a POST or None."""
        context = {"requestHour": 21}
        ranking = {"userId": self._user, "itemIds": self._items, "context": context}
        return {
            "one user": (self.page, None),
            f"ranking {len(self._items)} items": ("/v1/features/rank", ranking),
        }

    def count(self, reply: Any) -> int:
        """The watched value, of a reply of `page`."""
        return int(reply["features"][self.value])

    def event(self, number: int) -> tuple[bytes, bytes]:
        """Key and value of a live event, which makes the watched value larger by one."""
        event = {
            "eventId": f"demo-{number}",
            "userId": self._user,
            "itemId": self._items[number % len(self._items)],
            "watchDurationMin": 12.5,
            "progress": 0.4,
            "watchedAt": datetime.now(UTC).isoformat(),
        }
        return str(self._user).encode(), json.dumps(event).encode()

    def file(self, rows: int) -> tuple[str, int]:
        """A CSV file of yesterday's events, and by how much it makes the value larger."""
        day_before = datetime.now(UTC) - timedelta(days=1)
        lines = [
            f"{self._user if number % 4 == 0 else _NEW_USERS + number},"
            f"{self._items[number % len(self._items)]},"
            f"{(day_before + timedelta(seconds=number)).isoformat()},30"
            for number in range(rows)
        ]
        text = "\n".join(["user_id,item_id,watched_at,duration_min", *lines]) + "\n"
        return text, sum(number % 4 == 0 for number in range(rows))
