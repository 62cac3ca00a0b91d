"""PostgreSQL columns as Arrow columns and pandas frames, without losing a digit."""
