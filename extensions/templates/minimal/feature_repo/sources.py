"""Where values come from: the tables and topics that computations read, and their logs."""

from feast import KafkaSource
from feast.data_format import JsonFormat
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

VISIT = """{
  "type": "object",
  "required": ["visit_id", "visitor_id", "page", "visited_at"],
  "properties": {
    "visit_id": {"type": "string"},
    "visitor_id": {"type": "string"},
    "page": {"type": "string"},
    "visited_at": {"type": "string", "format": "date-time"}
  }
}"""

# The table is made by history/0001.visits.sql; columns and types are read from it.
visits = PostgreSQLSource(
    name="visits",
    table="visits",
    timestamp_field="visited_at",
    created_timestamp_column="ingested_at",
    description="One row per visit.",
    tags={"keys": "visitor_id", "id": "visit_id"},
)

visits_stream = KafkaSource(
    name="visits_stream",
    topic="visits",
    kafka_bootstrap_servers="",
    timestamp_field="visited_at",
    batch_source=visits,
    message_format=JsonFormat(schema_json=VISIT),
    description="Visits as they happen.",
)


def log(view: str, version: int) -> PostgreSQLSource:
    """The append-only log of one view version: keys, both times, features."""
    return PostgreSQLSource(
        name=f"{view}_v{version}",
        table=f"{view}_v{version}",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=f"The log of {view}, version {version}.",
    )
