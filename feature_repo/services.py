"""What models and pages ask for."""

from feast import FeatureService

from feature_repo.transforms import ranking_signals
from feature_repo.views import (
    item_profile,
    item_stats,
    user_habits,
    user_item_progress,
    user_preferences,
    user_watch_stats,
)

home_page = FeatureService(
    name="home_page",
    features=[user_watch_stats, user_preferences, user_habits],
    description="A user's own features, for the home page.",
)

ranking = FeatureService(
    name="ranking",
    features=[
        user_watch_stats,
        user_preferences,
        user_habits,
        item_stats,
        item_profile,
        user_item_progress,
        ranking_signals,
    ],
    description="All that a ranking model wants of a user, an item and the two together.",
)
