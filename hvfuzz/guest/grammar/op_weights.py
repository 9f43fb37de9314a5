"""The table of op kind weights: how often generation chooses each kind of op."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hvfuzz.guest.program.instruction_kinds import TRAP_FAMILIES
from hvfuzz.guest.program.ops import OpKind

ANY_KIND: Final = "*"
"""In a table of weights: all kinds that it lists neither by name nor by family."""
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
        "tlb": 3,
        "wakeup": 2,
        "retain": 2,
        "evict": 1,
        "deny": 2,
        **dict.fromkeys(TRAP_FAMILIES, 1),
    }
)
"""By name or family of the kind. A harness may override any of them."""


def weight_of(kind: OpKind, weights: Mapping[str, int]) -> int:
    """The weight of `kind`: the first match of its name, its family, ANY_KIND, in `weights`, then in the defaults."""
    names = (kind.name, kind.family, ANY_KIND)
    return next(table[name] for table in (weights, DEFAULT_WEIGHTS) for name in names if name in table)
