"""Conversions of values and keys: exact, or refused with the column named."""
