"""On-demand transforms: what depends on the request, the same function in training and serving.

Each works on whole columns: a serving request's items and a training set's rows alike.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Int64

from feature_repo.views import (
    item_profile,
    user_habits,
    user_item_progress,
    user_preferences,
)

GENRE_EMBEDDINGS: dict[str, list[float]] = json.loads(
    (Path(__file__).parent / "genres.json").read_text()
)

request_context = RequestSource(
    name="request_context",
    schema=[Field(name="request_hour", dtype=Int64)],
    description="The UTC hour of day of the request, 0 to 23.",
)


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_preferences, user_habits, item_profile, user_item_progress, request_context],
    schema=[
        Field(name="user_item_affinity", dtype=Float32),
        Field(name="hour_closeness", dtype=Float32),
        Field(name="continue_watching", dtype=Bool),
    ],
    mode="pandas",
    description="Affinity to the genre, closeness to the preferred hour, begun but not finished.",
)
def ranking_signals(inputs: pd.DataFrame) -> pd.DataFrame:
    """(n rows) -> (n rows): cosine in [-1, 1], closeness in [0, 1], a flag."""
    preferences = np.array(
        [np.asarray(v, dtype=np.float32) for v in inputs["user_genre_preferences"]]
    ).reshape(len(inputs), -1)
    nowhere = [0.0] * 32
    genres = np.array(
        [GENRE_EMBEDDINGS.get(g, nowhere) for g in inputs["item_genre"]], dtype=np.float32
    ).reshape(len(inputs), -1)
    norms = np.linalg.norm(preferences, axis=1) * np.linalg.norm(genres, axis=1)
    dots = (preferences * genres).sum(axis=1)
    affinity = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)

    apart = np.abs(inputs["request_hour"] - inputs["user_preferred_hour"]) % 24
    closeness = 1 - np.minimum(apart, 24 - apart) / 12

    progress = inputs["user_item_watch_progress"]
    signals = pd.DataFrame(index=inputs.index)
    signals["user_item_affinity"] = affinity.astype(np.float32)
    signals["hour_closeness"] = closeness.astype(np.float32)
    signals["continue_watching"] = (progress > 0.05) & (progress < 0.95)
    return signals
