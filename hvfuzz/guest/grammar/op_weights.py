"""How often each kind of op comes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hvfuzz.guest.program.ops import OpKind

ANY_KIND: Final = "*"
"""In weights, what the kinds get that are named neither themselves nor by their family."""
DEFAULT_WEIGHTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        ANY_KIND: 12,
        "discovery": 3,
        "sched": 6,
        "console": 4,
        "time": 4,
        "device.assign": 4,
        "device.deassign": 3,
        "load": 8,
        "store": 12,
        "execute": 3,
        "pte": 6,
        "mmio_read": 3,
        "mmio_write": 6,
        "raw": 3,
        "trap": 1,
        "tlb": 3,
    }
)


def weight_of(kind: OpKind, weights: Mapping[str, int]) -> int:
    for table in (weights, DEFAULT_WEIGHTS):
        for name in (kind.name, kind.family, ANY_KIND):
            if name in table:
                return table[name]
    return 1
