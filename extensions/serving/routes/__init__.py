"""Routes: the published feature routes, and Feast's own."""
