"""Where values come from: three histories, their streams, and the logs of the views."""

from datetime import timedelta

from feast import KafkaSource, PushSource
from feast.data_format import AvroFormat, JsonFormat
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from feature_repo.schemas import ORDER, PAGE_VIEW, PRODUCT

page_views = PostgreSQLSource(
    name="page_views",
    table="page_views",
    timestamp_field="viewed_at",
    created_timestamp_column="ingested_at",
    description="Views of product pages, and what was put into the cart there or taken out.",
    tags={"keys": "visitor_id,sku", "id": "view_id", "partition": "day"},
)

page_views_stream = KafkaSource(
    name="page_views_stream",
    topic="shop-page-views",
    kafka_bootstrap_servers="",
    timestamp_field="viewed_at",
    batch_source=page_views,
    message_format=JsonFormat(schema_json=PAGE_VIEW),
    field_mapping={"viewId": "view_id", "visitorId": "visitor_id", "viewedAt": "viewed_at"},
    watermark_delay_threshold=timedelta(days=60),
    description="Page views as browsers send them.",
)

orders = PostgreSQLSource(
    name="orders",
    table="orders",
    timestamp_field="ordered_at",
    created_timestamp_column="ingested_at",
    description="Lines of orders, with what was paid.",
    tags={"keys": "visitor_id,sku", "id": "order_id"},
)

orders_stream = KafkaSource(
    name="orders_stream",
    topic="shop-orders",
    kafka_bootstrap_servers="",
    timestamp_field="ordered_at",
    batch_source=orders,
    message_format=AvroFormat(schema_json=ORDER),
    field_mapping={"orderId": "order_id", "visitorId": "visitor_id", "orderedAt": "ordered_at"},
    watermark_delay_threshold=timedelta(days=60),
    description="Orders as the checkout writes them.",
    tags={"time_unit": "us"},
)

products = PostgreSQLSource(
    name="products",
    table="products",
    timestamp_field="changed_at",
    created_timestamp_column="ingested_at",
    description="The catalogue's changes; a row with deleted ends what is known of a product.",
    tags={"keys": "sku", "id": "lsn", "deleted": "deleted"},
)

products_stream = KafkaSource(
    name="products_stream",
    topic="shop-catalogue",
    kafka_bootstrap_servers="",
    timestamp_field="changed_at",
    batch_source=products,
    message_format=JsonFormat(schema_json=PRODUCT),
    field_mapping={"__source_lsn": "lsn"},
    watermark_delay_threshold=timedelta(days=3650),
    description="The catalogue's table as Debezium captures it.",
    tags={"envelope": "debezium", "encode": "feature_repo.messages.product_change"},
)

categories = PostgreSQLSource(
    name="categories",
    table="categories",
    timestamp_field="ingested_at",
    description="The catalogue's categories and their departments.",
    tags={"keys": "category"},
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


def pushed(view: str, version: int) -> PushSource:
    """The same for a view that the streams push to."""
    return PushSource(name=f"{view}_push", batch_source=log(view, version))
