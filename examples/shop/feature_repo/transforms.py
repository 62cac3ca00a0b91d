"""On-demand transforms: what depends on the request, the same function in training and serving."""

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Int64

from feature_repo.entities import OWNER
from feature_repo.views import product_profile, visitor_product, visitor_spend

checkout = RequestSource(
    name="checkout",
    schema=[
        Field(
            name="coupon_cents",
            dtype=Int64,
            description="What a coupon takes off, in cents.",
            tags={"default": "0", "minimum": "0", "maximum": "100000"},
        )
    ],
    description="What the visitor brings to the checkout.",
)


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[visitor_spend, product_profile, visitor_product, checkout],
    schema=[
        Field(name="final_price_cents", dtype=Int64),
        Field(name="price_to_usual", dtype=Float32),
        Field(name="seen_before", dtype=Bool),
    ],
    mode="pandas",
    version="v1",
    description="The price after the coupon, alone and against what the visitor usually pays.",
    owner=OWNER,
)
def offer(inputs: pd.DataFrame) -> pd.DataFrame:
    """(n rows) -> (n rows): cents, or -1 without a price; a ratio, or 0 without either; a flag."""
    price = inputs["price_cents"].to_numpy().astype(np.int64)
    coupon = inputs["coupon_cents"].to_numpy().astype(np.int64)
    final = np.where(price < 0, -1, np.maximum(price - coupon, 0))
    spend = inputs["spend_cents_30d"].to_numpy().astype(np.float64)
    orders = inputs["orders_30d"].to_numpy().astype(np.float64)
    usual = np.divide(spend, orders, out=np.zeros_like(spend), where=orders > 0)
    ratio = np.divide(
        final.astype(np.float64), usual, out=np.zeros_like(usual), where=(usual > 0) & (final >= 0)
    )
    return pd.DataFrame(
        {
            "final_price_cents": final,
            "price_to_usual": ratio.astype(np.float32),
            "seen_before": inputs["pair_views_30d"].to_numpy().astype(np.int64) > 0,
        },
        index=inputs.index,
        copy=False,
    )
