"""The registry: Feast's own, in which a published version stays what it is."""
