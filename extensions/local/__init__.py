"""Real servers on this machine, without root or Docker: PostgreSQL, Valkey and Kafka from packages.

``postgres``, ``valkey``, ``tansu`` and ``apache_kafka`` each have ``start(folder, port=None)``,
which returns a ready :class:`~extensions.local.server_process.Server`. ``stack`` runs the three
that a feature store needs, and stops them together.
"""
