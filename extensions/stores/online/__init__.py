"""The online store: packed rows in Redis; names, layout, scripts and round trips."""
