"""How Feast is extended: the as-of engine, the stores, the local servers and the command line."""

from extensions.deferred_type_checks import defer_type_checks

defer_type_checks()
