"""Messages of a declared stream to rows of its table: formats, envelopes, types, policies.

``RowDecoder(stream).decode(message, now)`` is all that the rest of the stream uses.
"""

from streaming.decoding.row_decoder import RowDecoder
from streaming.decoding.schema_registry import SchemaRegistry

__all__ = ["RowDecoder", "SchemaRegistry"]
