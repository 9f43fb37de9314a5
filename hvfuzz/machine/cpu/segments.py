"""Selectors and segments. There is no GDT: four selectors name the flat segments of a 64-bit guest, all others none."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

KERNEL_CS: Final = 0x10
KERNEL_SS: Final = 0x18
USER_SS: Final = 0x2B
USER_CS: Final = 0x33
RPL: Final = 3
"""The bits of a selector that hold the requested privilege level."""
INDEX: Final = 0xFFFC
"""The other bits; if they are 0, the selector is null (SDM Vol. 3A, 3.4.2). Error codes contain them."""

CODE_RINGS: Final[Mapping[int, int]] = MappingProxyType({KERNEL_CS & INDEX: 0, USER_CS & INDEX: 3})
"""Selector without RPL -> DPL, of each code segment. None is conforming."""
STACK_SELECTORS: Final[Mapping[int, int]] = MappingProxyType({0: KERNEL_SS, 3: USER_SS})
"""Ring -> selector of its stack segment."""

STAR_OF_FLAT_SEGMENTS: Final = (USER_SS - 8 & INDEX | RPL) << 48 | KERNEL_CS << 32
"""IA32_STAR with which SYSCALL and SYSRET load these four selectors (SDM Vol. 2B, SYSCALL and SYSRET)."""
