"""Who and what features describe."""

from feast import Entity, Project, ValueType

# Who answers for these definitions; Feast's user interface shows it.
OWNER = "recommendations"

skewless = Project(
    name="skewless",
    description="Features for production recommendations.",
    owner=OWNER,
)

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="A viewer.",
    owner=OWNER,
)

item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.INT64,
    description="Something to watch.",
    owner=OWNER,
)
