"""Distributions of training sets, and how a window is compared with like hours and requests."""
