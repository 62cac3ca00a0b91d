"""The feature views: schema, default, freshness and horizon of every feature.

How a view's values are computed stands in ``computations/<view>.v<N>.sql``, once, for batch,
stream, training and audit. The tags tell the engine when to ask:

``freshness``  realtime (follows each event; stale after 5 minutes), hourly (2 h), daily (2 days)
``horizon``    events older than this never count; without it, all of history counts; shorter
               windows are read from the computation (``interval '1 day'``)
``decays``     the value changes as time passes, with no event entering or leaving
``reads``      the history sources that the computation reads
``near``       "true": small and slow, so that each server holds a copy of it

A field's ``default`` (JSON) is what an entity without history has, online and in training.
``ttl`` stays unlimited: a quiet user is not a stale user; freshness is watched per view.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Array, Float32, Int64, String

from feature_repo.entities import OWNER, item, user
from feature_repo.sources import (
    item_profile_log,
    item_stats_log,
    user_habits_log,
    user_item_progress_push,
    user_preferences_log,
    user_watch_stats_push,
)

UNLIMITED = timedelta(0)
NO_PREFERENCE = "[" + ", ".join(["0.0"] * 32) + "]"

user_watch_stats = FeatureView(
    name="user_watch_stats",
    version="v1",
    description="How much a user has watched lately.",
    owner=OWNER,
    entities=[user],
    ttl=UNLIMITED,
    schema=[
        Field(
            name="user_watch_count_7d",
            dtype=Int64,
            description="Watch events of the last 7 days.",
            tags={"default": "0"},
        ),
    ],
    source=user_watch_stats_push,
    tags={"freshness": "realtime", "horizon": "7 days", "reads": "watch_events"},
)

user_preferences = FeatureView(
    name="user_preferences",
    version="v1",
    description="Which genres a user has been watching.",
    owner=OWNER,
    entities=[user],
    ttl=UNLIMITED,
    schema=[
        Field(
            name="user_genre_preferences",
            dtype=Array(Float32),
            description="Genre embeddings of the last 100 watches in 30 days, by watch duration.",
            tags={"default": NO_PREFERENCE},
        ),
    ],
    source=user_preferences_log,
    tags={"freshness": "hourly", "horizon": "30 days", "reads": "watch_events,items,genres"},
)

user_habits = FeatureView(
    name="user_habits",
    version="v1",
    description="When and for how long a user watches.",
    owner=OWNER,
    entities=[user],
    ttl=UNLIMITED,
    schema=[
        Field(
            name="user_avg_watch_duration_min",
            dtype=Float32,
            description="Mean watch duration over 30 days, in minutes.",
            tags={"default": "0.0"},
        ),
        Field(
            name="user_preferred_hour",
            dtype=Int64,
            description="The UTC hour of day with most watches over 30 days; ties to the latest.",
            tags={"default": "20"},
        ),
    ],
    source=user_habits_log,
    tags={"freshness": "daily", "horizon": "30 days", "reads": "watch_events"},
)

item_stats = FeatureView(
    name="item_stats",
    version="v1",
    description="How popular an item is now.",
    owner=OWNER,
    entities=[item],
    ttl=UNLIMITED,
    schema=[
        Field(
            name="item_popularity_score",
            dtype=Float32,
            description="min(1, sum of exp(-0.1 x age in days) / 1000) over 14 days of watches.",
            tags={"default": "0.0"},
        ),
    ],
    source=item_stats_log,
    tags={
        "freshness": "hourly",
        "horizon": "14 days",
        "decays": "true",
        "reads": "watch_events",
        "near": "true",
    },
)

item_profile = FeatureView(
    name="item_profile",
    version="v1",
    description="What an item is.",
    owner=OWNER,
    entities=[item],
    ttl=UNLIMITED,
    schema=[
        Field(
            name="item_genre",
            dtype=String,
            description="Primary genre.",
            tags={"default": '"unknown"'},
        ),
    ],
    source=item_profile_log,
    tags={"freshness": "daily", "reads": "items", "near": "true"},
)

user_item_progress = FeatureView(
    name="user_item_progress",
    version="v1",
    description="How far a user has got in an item.",
    owner=OWNER,
    entities=[user, item],
    ttl=UNLIMITED,
    schema=[
        Field(
            name="user_item_watch_progress",
            dtype=Float32,
            description="Progress of the user's latest watch of the item, 0 to 1.",
            tags={"default": "0.0"},
        ),
    ],
    source=user_item_progress_push,
    tags={"freshness": "realtime", "reads": "watch_events"},
)
