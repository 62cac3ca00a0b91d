"""The as-of engine's proof: random histories against the oracle, and the contract."""
