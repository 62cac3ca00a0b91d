"""How Feast is extended: the as-of engine, the stores, the local servers and the command line."""
