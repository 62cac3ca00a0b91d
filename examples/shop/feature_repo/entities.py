"""Who and what features describe."""

from feast import Entity, Project, ValueType

OWNER = "shop"

shop = Project(
    name="shop",
    description="Features for a shop's pages: visitors, products, and the two together.",
    owner=OWNER,
)

visitor = Entity(
    name="visitor",
    join_keys=["visitor_id"],
    value_type=ValueType.STRING,
    description="A browser or an account, by a UUID in its text form.",
    owner=OWNER,
)

product = Entity(
    name="product",
    join_keys=["sku"],
    value_type=ValueType.STRING,
    description="Something to buy, by its stock keeping unit.",
    owner=OWNER,
)
