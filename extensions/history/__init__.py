"""Loading history: from a user's own files, or from the repository's simulator."""
