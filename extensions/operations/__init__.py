"""What an operator runs: prepare a database, refresh the features, examine the whole."""
