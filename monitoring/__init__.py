"""Watching features: drift against the training data, and the audit of what was served."""
