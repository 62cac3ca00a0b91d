"""Declared aggregations: their values, their contract, their life."""
