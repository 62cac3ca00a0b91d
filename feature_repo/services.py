"""What models and pages ask for.

A view by its name follows the default version as it is promoted and rolled back;
``"user_watch_stats@v1"`` stays at v1, for a model that was trained on it.

Any service is served under its own name and its join keys' names (``/v1/features/{service}/{id}``
for one entity, ``/v1/rank/{service}`` for a pair). The tags declare the published routes:

``route``  the path beside that
``names``  what ids and features are called in its requests and replies
"""

from feast import FeatureService

from feature_repo.entities import OWNER

home_page = FeatureService(
    name="home_page",
    features=["user_watch_stats", "user_preferences", "user_habits"],
    description="A user's own features, for the home page.",
    owner=OWNER,
    tags={"route": "/v1/features/user/{user_id}", "names": "user_id=userId"},
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
    tags={
        "route": "/v1/features/rank",
        "names": "user_id=userId, item_id=itemId, item_id[]=itemIds, features=userFeatures, "
        "item_features=itemFeatures, pair_features=interactionFeatures",
    },
)
