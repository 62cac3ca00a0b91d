"""Uses the generated Python client as an application would. Run by test_generated_clients."""

import json
import sys

from skewless_client import Client
from skewless_client.api.feast import get_online_features
from skewless_client.api.features import features, rank_features, user_features
from skewless_client.models import (
    Error,
    GetOnlineFeaturesRequest,
    HomePageEntity,
    HomePageReply,
    HomePageRequest,
    RankingContext,
    RankReply,
    RankRequest,
    UserFeatures,
    UserFeaturesInclude,
)

client = Client(base_url=sys.argv[1])

user = user_features.sync(1, client=client, include=UserFeaturesInclude.META)
assert isinstance(user, UserFeatures), user

request = RankRequest(user_id=1, item_ids=[1, 2, 3], context=RankingContext(request_hour=21))
ranking = rank_features.sync(client=client, body=request)
assert isinstance(ranking, RankReply), ranking

entities = [HomePageEntity(user_id=1), HomePageEntity(user_id=2)]
rows = features.sync(client=client, body=HomePageRequest("home_page", entities))
assert isinstance(rows, HomePageReply), rows

wrong = RankRequest(user_id=1, item_ids=[1], context=RankingContext(request_hour=24))
refused = rank_features.sync_detailed(client=client, body=wrong)
assert isinstance(refused.parsed, Error), refused

columns = {"feature_service": "home_page", "entities": {"user_id": [1]}}
feast = get_online_features.sync(client=client, body=GetOnlineFeaturesRequest.from_dict(columns))

sys.stdout.write(
    json.dumps(
        {
            "watched": user.features.user_watch_count_7d,
            "preferences": user.features.user_genre_preferences,
            "version": user.meta["user_habits"].version,
            "items": [item.item_id for item in ranking.items],
            "begun": [item.interaction_features.continue_watching for item in ranking.items],
            "counts": [row.features.user_watch_count_7d for row in rows.results],
            "status": int(refused.status_code),
            "field": refused.parsed.error.field,
            "names": feast.metadata.feature_names,
        }
    )
)
