"""Where values come from: the history that computations read, and the logs that they write.

A history source says which columns are the entity's keys (tag ``keys``), when a row happened
(``timestamp_field``) and when the store could know it (``created_timestamp_column``, if that is
another time). From that the engine finds the entities whose answers may have changed.

A log source is one append-only table per view version, named ``<view>_v<N>``.
"""

from feast import KafkaSource, PushSource
from feast.data_format import JsonFormat
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from feature_repo.streams import WATCH_EVENT

watch_events = PostgreSQLSource(
    name="watch_events",
    table="watch_events",
    timestamp_field="watched_at",
    created_timestamp_column="ingested_at",
    description="One row per watch event, unique by event_id.",
    tags={
        "keys": "user_id,item_id",
        "id": "event_id",
        "partition": "month",
        # Of files that were written from the stream's messages.
        "import.duration_ms": "watchDurationMin * 60000",
    },
)

watch_events_stream = KafkaSource(
    name="watch_events_stream",
    topic="watch-events",
    kafka_bootstrap_servers="",
    timestamp_field="watched_at",
    batch_source=watch_events,
    message_format=JsonFormat(schema_json=WATCH_EVENT),
    field_mapping={
        "eventId": "event_id",
        "userId": "user_id",
        "itemId": "item_id",
        "watchDurationMin": "duration_ms",
        "watchedAt": "watched_at",
    },
    description="Watch events as the players publish them.",
    tags={
        "group": "skewless-ingest",
        "convert": "feature_repo.streams.watch_event",
        "encode": "feature_repo.streams.published_event",
        "time_unit": "ms",
    },
)

items = PostgreSQLSource(
    name="items",
    table="items",
    timestamp_field="valid_from",
    created_timestamp_column="ingested_at",
    description="What an item is, as a history: a correction is a new row.",
    tags={"keys": "item_id", "oldest": "1900-01-01"},
)

genres = PostgreSQLSource(
    name="genres",
    table="genres",
    timestamp_field="ingested_at",
    description="A genre's place in the embedding space, as a history.",
    tags={"keys": "genre"},
)


def log(view: str, version: int) -> PostgreSQLSource:
    """The append-only log of one view version: keys, both times, features."""
    return PostgreSQLSource(
        name=f"{view}_v{version}",
        table=f"{view}_v{version}",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=f"The log of {view}, version {version}.",
    )


user_watch_stats_log = log("user_watch_stats", 1)
user_preferences_log = log("user_preferences", 1)
user_habits_log = log("user_habits", 1)
item_stats_log = log("item_stats", 1)
item_profile_log = log("item_profile", 1)
user_item_progress_log = log("user_item_progress", 1)

# The stream pushes into these two; store.push(..., to=PushMode.ONLINE_AND_OFFLINE) reaches
# Redis and the log alike.
user_watch_stats_push = PushSource(name="user_watch_stats_push", batch_source=user_watch_stats_log)
user_item_progress_push = PushSource(
    name="user_item_progress_push", batch_source=user_item_progress_log
)
