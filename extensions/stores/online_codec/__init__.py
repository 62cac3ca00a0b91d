"""The codec of online rows: their format, encoder, decoder, Redis keys and write scripts."""
