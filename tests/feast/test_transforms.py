"""The on-demand transforms, by hand."""

import numpy as np
import pandas as pd
import pytest

from feature_repo.genres import PLACES
from feature_repo.transforms import ranking_signals

signals = ranking_signals.feature_transformation.udf


def inputs(**columns: list) -> pd.DataFrame:
    rows = len(next(iter(columns.values()))) if columns else 0
    defaults = {
        "user_genre_preferences": [[0.0] * 32] * rows,
        "item_genre": ["unknown"] * rows,
        "user_preferred_hour": [20] * rows,
        "user_item_watch_progress": [0.0] * rows,
        "request_hour": [20] * rows,
    }
    return pd.DataFrame({**defaults, **columns})


def test_no_rows_give_no_rows() -> None:
    assert len(signals(inputs())) == 0


def test_affinity_is_the_cosine_and_zero_where_nothing_is_known() -> None:
    drama = PLACES["drama"]
    result = signals(
        inputs(
            user_genre_preferences=[list(3 * drama), list(-drama), [0.0] * 32, list(drama)],
            item_genre=["drama", "drama", "drama", "no such genre"],
        )
    )["user_item_affinity"]
    assert result.dtype == np.float32
    assert result.tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-6)


def test_hours_are_close_around_midnight() -> None:
    result = signals(inputs(user_preferred_hour=[23, 23, 0, 12], request_hour=[23, 1, 12, 11]))
    assert result["hour_closeness"].tolist() == pytest.approx([1.0, 10 / 12, 0.0, 11 / 12])


def test_continue_watching_excludes_both_edges_as_float32() -> None:
    # Serving hands over doubles made of floats, training the floats: the edges must agree.
    edges = [0.0, float(np.float32(0.05)), 0.0501, 0.9, float(np.float32(0.95)), 1.0]
    doubles = signals(inputs(user_item_watch_progress=edges))["continue_watching"]
    frame = inputs(user_item_watch_progress=edges)
    frame["user_item_watch_progress"] = frame["user_item_watch_progress"].astype(np.float32)
    floats = signals(frame)["continue_watching"]
    assert doubles.tolist() == floats.tolist() == [False, False, True, True, False, False]
