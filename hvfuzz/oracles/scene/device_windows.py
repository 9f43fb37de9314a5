"""Where the registers of PCI functions are in host physical addresses: a page each, above memory, in order."""

from __future__ import annotations

from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT

FIRST_WINDOW: Final = 0xFEB0_0000
"""Host physical address of the registers of function 0."""
WINDOWS_END: Final = 0xFEC0_0000
"""Interrupt controllers are from here on."""
FIRST_FRAME: Final = FIRST_WINDOW >> PAGE_SHIFT
"""Host frame number of the registers of function 0."""
