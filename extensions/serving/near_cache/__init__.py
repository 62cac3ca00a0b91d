"""The near cache: small views held in each worker, kept current by Redis invalidations."""
