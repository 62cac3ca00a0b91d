"""Versions: publish a definition beside the old one, promote it, and take it back in a second."""
