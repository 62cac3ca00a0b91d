"""What models and pages ask for.

A view by its name follows the default version as it is promoted and rolled back;
``"user_watch_stats@v1"`` stays at v1, for a model that was trained on it.
"""

from feast import FeatureService

from feature_repo.entities import OWNER

home_page = FeatureService(
    name="home_page",
    features=["user_watch_stats", "user_preferences", "user_habits"],
    description="A user's own features, for the home page.",
    owner=OWNER,
)

ranking = FeatureService(
    name="ranking",
    features=[
        "user_watch_stats",
        "user_preferences",
        "user_habits",
        "item_stats",
        "item_profile",
        "user_item_progress",
        "ranking_signals",
    ],
    description="All that a ranking model wants of a user, an item and the two together.",
    owner=OWNER,
)
