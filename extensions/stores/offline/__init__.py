"""The offline store: histories in PostgreSQL, point-in-time joins in Arrow, the served log."""
