"""Secret words: one for each domain, one for the control area, one for each heap page the hypervisor allocates.

A guest that holds another's secret learnt it through a leak: no guest can guess 64 bits of a keyed hash.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

DOMAIN = 0
CONTROL = 1
HEAP = 2


def canary(secret: int, purpose: int, number: int) -> int:
    """The secret word `number` of `purpose`, derived from the boot secret (a u64); never small."""
    return _word(secret, purpose, number)


@lru_cache(1 << 12)  # every run from one snapshot asks for the same words
def _word(secret: int, purpose: int, number: int) -> int:
    key = secret.to_bytes(8, "little")
    message = bytes((purpose,)) + number.to_bytes(8, "little")
    word = int.from_bytes(blake2b(message, key=key, digest_size=8).digest(), "little")
    return word | 1 << 63 | 1 << 31
