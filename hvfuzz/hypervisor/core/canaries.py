"""Canaries: secret words of each domain, of the control area, and of each heap page the hypervisor allocates.

A guest that holds a foreign canary learnt it through a leak: it cannot guess 64 bits of a keyed hash.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

DOMAIN = 0
CONTROL = 1
HEAP = 2


def canary(secret: int, purpose: int, number: int) -> int:
    """Canary `number` of `purpose`, derived from the boot secret (a u64); never small: bits 31 and 63 are set."""
    return _word(secret, purpose, number)


@lru_cache(1 << 12)  # every run from one snapshot needs the same words
def _word(secret: int, purpose: int, number: int) -> int:
    key = secret.to_bytes(8, "little")
    message = bytes((purpose,)) + number.to_bytes(8, "little")
    word = int.from_bytes(blake2b(message, key=key, digest_size=8).digest(), "little")
    return word | 1 << 63 | 1 << 31
