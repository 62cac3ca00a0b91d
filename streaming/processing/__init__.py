"""From events to fresh features: one transaction, computation, online write, reconciliation."""
