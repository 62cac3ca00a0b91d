"""The skew audit: served values against the training join and a recomputation."""
