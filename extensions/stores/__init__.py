"""Feast's stores as this project runs them: PostgreSQL offline, Redis online, an SQL registry.

What goes from the one to the other stands here: `batch_engine` (`feast materialize`), `publish`
(what the engine computed) and `rebuild` (a lost Redis).
"""

from extensions.stores.feast_command import settle_in

settle_in()
