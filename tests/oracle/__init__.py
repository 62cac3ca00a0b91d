"""The oracle: every feature once more, in plain Python, sharing nothing with the engine."""
