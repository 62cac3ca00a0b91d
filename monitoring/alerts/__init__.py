"""Reactions to verdicts: incidents, notifications and automatic rollback."""
