"""The shop's definitions."""
