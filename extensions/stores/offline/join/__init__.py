"""The point-in-time join: labels, keys, versions, and which row was known when."""
