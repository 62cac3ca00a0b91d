"""The load of the stream's benchmark, a process that imports nothing heavy.

`python -m benchmarks.streaming_load BOOTSTRAP TOPIC USERS RATE EVENTS`: events of now, keyed by
user, RATE a second (0: as fast as they go), EVENTS of them (0: until it is ended).
"""

import random
import sys
import time
from datetime import UTC, datetime

import orjson
from kafka import KafkaProducer

ITEMS = 5_000


def produce(bootstrap: str, topic: str, users: int, rate: float, events: int) -> None:
    """Send, in bursts of a hundredth of a second."""
    rng = random.Random(1)
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, linger_ms=5 if rate else 20, batch_size=256 * 1024
    )
    began, sent = time.monotonic(), 0
    burst = int(rate / 100) or 1_000
    while not events or sent < events:
        size = min(burst, events - sent) if events else burst
        for _ in range(size):
            user = rng.randrange(users) + 1
            value = message(user, rng.randrange(ITEMS) + 1)
            producer.send(topic, key=str(user).encode(), value=value)
        sent += size
        if rate:
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))
    producer.flush()
    producer.close()


def message(user: int, item: int) -> bytes:
    """An event of now."""
    fields = {"userId": user, "itemId": item, "watchDurationMin": 12.5, "progress": 0.5}
    return orjson.dumps(fields | {"watchedAt": datetime.now(UTC).isoformat()})


if __name__ == "__main__":
    produce(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
