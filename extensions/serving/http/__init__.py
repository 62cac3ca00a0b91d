"""HTTP itself: connection limits, admission, request validation, responses, OpenAPI."""
