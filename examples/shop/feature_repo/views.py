"""The feature views: schema, default, freshness and horizon of every feature."""

from datetime import timedelta

from feast import Entity, FeatureView, Field
from feast.types import (
    Array,
    Bool,
    ComplexFeastType,
    Float32,
    Float64,
    Int64,
    PrimitiveFeastType,
    String,
)

from feature_repo.entities import OWNER, product, visitor
from feature_repo.sources import log, pushed


def feature(
    name: str, dtype: ComplexFeastType | PrimitiveFeastType, default: str, description: str
) -> Field:
    """A field with its default, as JSON."""
    return Field(name=name, dtype=dtype, description=description, tags={"default": default})


def view(
    name: str,
    entities: list[Entity],
    description: str,
    schema: list[Field],
    *,
    version: int = 1,
    **tags: str,
) -> FeatureView:
    """A version of a view; a realtime one is pushed to by the streams."""
    source = (pushed if tags["freshness"] == "realtime" else log)(name, version)
    return FeatureView(
        name=name,
        version=f"v{version}",
        description=description,
        owner=OWNER,
        entities=entities,
        ttl=timedelta(0),
        schema=schema,
        source=source,
        tags=tags,
    )


visitor_spend = view(
    "visitor_spend",
    [visitor],
    "What a visitor has bought lately.",
    [
        feature("spend_cents_30d", Int64, "0", "Paid in 30 days, in cents."),
        feature("orders_30d", Int64, "0", "Order lines in 30 days."),
        feature("units_30d", Int64, "0", "Units of products in these lines."),
    ],
    freshness="realtime",
    horizon="30 days",
    reads="orders",
)

visitor_recent = view(
    "visitor_recent",
    [visitor],
    "What a visitor has looked at.",
    [
        feature(
            "recent_skus",
            Array(String),
            "[]",
            "The last 20 products viewed in 30 days, latest first.",
        )
    ],
    freshness="realtime",
    horizon="30 days",
    reads="page_views",
)

visitor_cart = view(
    "visitor_cart",
    [visitor],
    "Whether a visitor has something in the cart.",
    [
        feature(
            "cart_open",
            Bool,
            "false",
            "The last change of the cart put something in, and no order came since.",
        )
    ],
    freshness="realtime",
    reads="page_views,orders",
)

visitor_last_order = view(
    "visitor_last_order",
    [visitor],
    "How long ago a visitor bought.",
    [
        feature(
            "hours_since_order", Float32, "-1.0", "Hours since the last order of a year; -1: none."
        )
    ],
    freshness="hourly",
    horizon="365 days",
    decays="true",
    reads="orders",
)

product_conversion = view(
    "product_conversion",
    [product],
    "How often a look becomes a sale.",
    [
        feature("views_14d", Int64, "0", "Views in 14 days."),
        feature("orders_14d", Int64, "0", "Order lines in 14 days."),
        feature("conversion_14d", Float32, "0.0", "Orders per view in 14 days; 0 without views."),
    ],
    freshness="hourly",
    horizon="14 days",
    reads="page_views,orders",
    near="true",
)

product_popularity = view(
    "product_popularity",
    [product],
    "How much a product is looked at now.",
    [
        feature(
            "popularity", Float64, "0.0", "Sum of exp(-age in days / 3) of the views of 14 days."
        )
    ],
    freshness="hourly",
    horizon="14 days",
    decays="true",
    reads="page_views",
    near="true",
)

product_profile = view(
    "product_profile",
    [product],
    "What a product is and costs, as far as is known.",
    [
        feature("category", String, '"unknown"', "The catalogue's category."),
        feature("price_cents", Int64, "-1", "The price in cents; -1: not in the catalogue."),
    ],
    freshness="realtime",
    reads="products",
    near="true",
)

visitor_product = view(
    "visitor_product",
    [visitor, product],
    "A visitor and a product.",
    [feature("pair_views_30d", Int64, "0", "The visitor's views of the product in 30 days.")],
    freshness="realtime",
    horizon="30 days",
    reads="page_views",
)
