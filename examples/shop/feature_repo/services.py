"""What models and pages ask for."""

from feast import FeatureService

from feature_repo.entities import OWNER

start_page = FeatureService(
    name="start_page",
    features=["visitor_spend", "visitor_recent", "visitor_cart", "visitor_last_order"],
    description="A visitor's own features, for the start page.",
    owner=OWNER,
    tags={"route": "/v1/shop/visitor/{visitor_id}", "names": "visitor_id=visitorId"},
)

offers = FeatureService(
    name="offers",
    features=[
        "visitor_spend",
        "visitor_cart",
        "visitor_last_order",
        "product_conversion",
        "product_popularity",
        "product_profile",
        "visitor_product",
        "offer",
    ],
    description="All that a model of offers wants of a visitor, a product and the two together.",
    owner=OWNER,
    tags={
        "route": "/v1/shop/offers",
        "names": "visitor_id=visitorId, sku[]=skus, features=visitorFeatures, "
        "item_features=productFeatures, pair_features=pairFeatures",
    },
)
