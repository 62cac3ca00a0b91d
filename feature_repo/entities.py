"""Who and what features describe."""

from feast import Entity, Project, ValueType

skewless = Project(name="skewless", description="Features for production recommendations.")

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="A viewer.",
)

item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.INT64,
    description="Something to watch.",
)
