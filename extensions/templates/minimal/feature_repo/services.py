"""What models and pages ask for."""

from feast import FeatureService

visitor_service = FeatureService(
    name="visitor",
    features=["visitor_activity"],
    description="What a page wants of its visitor.",
)
