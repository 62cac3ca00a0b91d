"""Kafka in: decode, store, recompute what was touched, publish; exactly once in effect."""
