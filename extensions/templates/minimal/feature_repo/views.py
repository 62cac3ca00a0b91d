"""The feature views: schema, default, freshness and horizon of every feature.

How a view's values are computed stands in ``computations/<view>.v<N>.sql``. The tags:

``freshness``  realtime (follows each event), hourly or daily
``horizon``    events older than this never count; without it, all of history counts; shorter
               windows are read from the computation (``interval '1 day'``)
``reads``      the sources that the computation reads

A field's ``default`` (JSON) is what an entity without history has, online and in training.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Int64, String

from feature_repo.entities import visitor
from feature_repo.sources import log

visitor_activity = FeatureView(
    name="visitor_activity",
    version="v1",
    description="What a visitor has done lately.",
    entities=[visitor],
    ttl=timedelta(0),
    schema=[
        Field(name="visits_7d", dtype=Int64, tags={"default": "0"}),
        Field(name="last_page_7d", dtype=String, tags={"default": '""'}),
    ],
    source=log("visitor_activity", 1),
    tags={"freshness": "realtime", "horizon": "7 days", "reads": "visits"},
)
