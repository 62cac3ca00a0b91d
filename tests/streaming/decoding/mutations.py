"""Mutations of a message's bytes."""

import random


def mutated(rng: random.Random, value: bytes) -> bytes:
    """``value`` with one to four bytes replaced, removed, repeated, or its end cut off."""
    out = bytearray(value)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) or 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del out[at : at + rng.randint(1, 8)]
            case 2:
                out[at:at] = out[at : at + rng.randint(1, 20)]
            case 3:
                out[at : at + 1] = rng.choice([b'"', b"{", b"9", b"-", b"e", b"\\", b"\0"])
            case _:
                del out[rng.randint(0, len(out)) :]
    return bytes(out)
