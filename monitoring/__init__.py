"""Monitoring of features: drift against the training data, and the audit of served values."""
