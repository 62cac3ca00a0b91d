"""Feast's stores as this project runs them: PostgreSQL offline, Redis online, an SQL registry.

What goes from the one to the other stands here: `batch_engine` (`feast materialize`), `publish`
(what the engine computed) and `rebuild` (a lost Redis).
"""

from extensions.stores.feast_command_errors import print_errors_as_sentences

print_errors_as_sentences()
