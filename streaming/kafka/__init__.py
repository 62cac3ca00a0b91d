"""The Kafka side: subscription, record batches, decoding, dead letters, replay."""
