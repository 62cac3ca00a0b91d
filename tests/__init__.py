"""Tests, one folder per room; `oracle/` is the specification of the features in plain Python."""
