"""Writes to PostgreSQL: pushes, the serving log, saved datasets, Parquet exports."""
