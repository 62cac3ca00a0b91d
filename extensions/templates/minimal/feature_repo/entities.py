"""Who and what features describe."""

from feast import Entity, ValueType

visitor = Entity(
    name="visitor",
    join_keys=["visitor_id"],
    value_type=ValueType.STRING,
    description="Somebody who visits.",
)
