"""What the features are: entities, sources, views, transforms, services, computations."""
