"""Authentication and authorisation of requests: API keys, bearer tokens, Feast permissions."""
