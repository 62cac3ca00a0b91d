"""Engines beside PostgreSQL that run a computation's text as it is, for ranges of history."""
