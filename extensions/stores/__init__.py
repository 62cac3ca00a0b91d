"""Feast's two stores as this project runs them: PostgreSQL offline, Redis online."""
