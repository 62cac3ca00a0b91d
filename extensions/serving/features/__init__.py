"""From a request to feature columns: request plans, Redis reads, on-demand transforms."""
