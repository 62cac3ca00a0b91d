"""On-demand transforms: what depends on the request, the same function in training and serving.

Each works on whole columns: a serving request's items and a training set's rows alike.
"""

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Int64

from feature_repo.entities import OWNER
from feature_repo.views import (
    item_profile,
    user_habits,
    user_item_progress,
    user_preferences,
)

request_context = RequestSource(
    name="request_context",
    schema=[
        Field(
            name="request_hour",
            dtype=Int64,
            description="The UTC hour of day, 0 to 23; the current one if left out.",
            tags={"minimum": "0", "maximum": "23", "default_from": "utc_hour"},
        )
    ],
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
    version="v1",
    description="Affinity to the genre, closeness to the preferred hour, begun but not finished.",
    owner=OWNER,
)
def ranking_signals(inputs: pd.DataFrame) -> pd.DataFrame:
    """(n rows) -> (n rows): cosine in [-1, 1], closeness in [0, 1], a flag."""
    # Feast runs this function from its source text alone: what it needs, it imports.
    from feature_repo.genres import LENGTHS, ROWS, TABLE  # noqa: PLC0415

    # No rows have no width to infer; Feast tries vectors of length one when it is applied.
    shape = (len(inputs), -1 if len(inputs) else 1)
    preferences = np.array(inputs["user_genre_preferences"].tolist(), np.float32).reshape(shape)
    rows = [ROWS.get(genre, 0) for genre in inputs["item_genre"]]
    norms = np.sqrt((preferences * preferences).sum(axis=1)) * LENGTHS[rows]
    dots = (preferences * TABLE[rows]).sum(axis=1)
    affinity = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)

    hours = inputs["request_hour"].to_numpy() - inputs["user_preferred_hour"].to_numpy()
    apart = np.abs(hours) % 24
    closeness = 1 - np.minimum(apart, 24 - apart) / 12

    # Serving hands features over as doubles, training as floats: compare as what they are.
    progress = inputs["user_item_watch_progress"].to_numpy().astype(np.float32)
    return pd.DataFrame(
        {
            "user_item_affinity": affinity,
            "hour_closeness": closeness.astype(np.float32),
            "continue_watching": (progress > np.float32(0.05)) & (progress < np.float32(0.95)),
        },
        index=inputs.index,
        copy=False,
    )
