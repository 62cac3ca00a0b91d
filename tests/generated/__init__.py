"""Generated platforms: schemas and ids that nobody would write, through every path."""
