"""What the features are: entities, sources, views, services, computations."""
