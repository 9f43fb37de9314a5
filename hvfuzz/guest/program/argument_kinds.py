"""The kinds of the arguments of instructions: width, values worth trying, symbols of the text form."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from hvfuzz.abi.boot import CPUID_SIGNATURE, CPUID_VERSION
from hvfuzz.abi.device_models import Placement
from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.program.device_registers import OTHER_PORTS, PCI_REGISTERS
from hvfuzz.machine.cached_entries import Cache

ANY_RESOURCE: Final = "any"
"""`consumes` of a kind that takes the result of any earlier op with a result."""
SIZES: Final = (1, 2, 4, 8)
"""Operand sizes in bytes; any other `size` counts as 8."""
INTEGER_FORMAT: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""By width in bytes: the `struct` format of an unsigned integer."""
TIMES_MAX: Final = 512


MSRS: Final = MappingProxyType(
    {
        # SDM Vol. 4, table 2-2; x2APIC registers are 0x800 to 0xbff.
        "TSC": 0x10,
        "APIC_BASE": 0x1B,
        "FEATURE_CONTROL": 0x3A,
        "MTRR_CAP": 0xFE,
        "SYSENTER_CS": 0x174,
        "SYSENTER_ESP": 0x175,
        "SYSENTER_EIP": 0x176,
        "MISC_ENABLE": 0x1A0,
        "PAT": 0x277,
        "X2APIC_ID": 0x802,
        "X2APIC_TPR": 0x808,
        "X2APIC_PPR": 0x80A,
        "X2APIC_EOI": 0x80B,
        "X2APIC_SVR": 0x80F,
        "X2APIC_ISR1": 0x811,
        "X2APIC_IRR1": 0x821,
        "X2APIC_ESR": 0x828,
        "X2APIC_ICR": 0x830,
        "X2APIC_LVT_TIMER": 0x832,
        "X2APIC_INITIAL_COUNT": 0x838,
        "X2APIC_CURRENT_COUNT": 0x839,
        "X2APIC_DIVIDE": 0x83E,
        "X2APIC_SELF_IPI": 0x83F,
        "X2APIC_LAST": 0xBFF,
        "EFER": 0xC0000080,
        "STAR": 0xC0000081,
        "LSTAR": 0xC0000082,
        "CSTAR": 0xC0000083,
        "FMASK": 0xC0000084,
        "FS_BASE": 0xC0000100,
        "GS_BASE": 0xC0000101,
        "KERNEL_GS_BASE": 0xC0000102,
        "TSC_AUX": 0xC0000103,
    }
)
CONTROL_REGISTERS: Final = MappingProxyType({"CR0": 0, "CR2": 2, "CR3": 3, "CR4": 4, "CR8": 8})
SIZE: Final = Kind("size", 1, SIZES)
WORD: Final = Kind(
    "word",
    8,
    (0, 1, 2, 3, 8, 0xFF, 0x1000, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1),
    consumes=ANY_RESOURCE,
)
LEVEL: Final = Kind("level", 1, (1, 2, 3, 4))
ENTRY: Final = Kind("entry", 8)
LEAF: Final = Kind(
    "leaf",
    4,
    (0, 1, 7, 0xB, 0xC, CPUID_SIGNATURE, CPUID_VERSION, 0x4000_00FF, 0x8000_0000, 0x8000_0001, 0x8000_0008),
)
SUBLEAF: Final = Kind("subleaf", 4, (0, 1, 2, 0xFF, 0xFFFF_FFFF))
LIMIT: Final = Kind("limit", 2, (0, 0x67, 0xDF, 0xE8, 0xFF, 0xFFF, 0xFFFF))
VECTOR: Final = Kind("vector", 1, (0, 3, 4, 6, 8, 13, 14, 0x20, 0x80, 0xFF))
TIMES: Final = Kind("times", 2, (0, 1, 2, 16, 63, 64, 65, 255))
"""Elements of a string instruction, at most TIMES_MAX; a larger number counts as TIMES_MAX."""
CONTROL: Final = Kind("control", 1, (0, 2, 3, 4, 8), names=CONTROL_REGISTERS)
CONTROL_VALUE: Final = Kind(
    "control_value",
    8,
    # CR0: paging with and without WP, no paging. CR3: two tables, with and without a PCID and the no-flush bit. CR4:
    # PAE, PGE, PCIDE, SMEP and SMAP. CR8: a priority, and one too large. A reserved bit, and all ones. (SDM Vol. 3A,
    # 2.5)
    (
        *(0x8001_0033, 0x8000_0033, 0x33, 0),
        *(0x1000, 0x2000, 0x1001, 1 << 63 | 0x1000, 1 << 63 | 0x1001),
        *(0xF, 0x10),
        *(0x20, 0xA0, 0x2_00A0, 0x30_00A0, 1 << 63, (1 << 64) - 1),
    ),
)
MSR: Final = Kind("msr", 4, (*MSRS.values(), 0x8FF, 0x900, 0x1000), names=MSRS)
INVALIDATION: Final = Kind("invalidation", 1, (0, 1, 2, 3, 4))
PCID: Final = Kind("pcid", 8, (0, 1, 2, 0xFFF, 0x1000))
PCI_DEVICE: Final = Kind("device", 1, (0, 1, 2, 3))
CAPACITY: Final = Kind("capacity", 1, (0, 1, 2, 4, 16, 64))
REQUEST: Final = Kind("request", 1, (0, 1, 2, 3, 4, 63, 64))
"""A request for memory within an op, from 0."""
CACHE: Final = Kind("cache", 1, tuple(Cache), names=MappingProxyType({each.name: int(each) for each in Cache}))
CACHE_ENTRY: Final = Kind("cache_entry", 1, (0, 1, 2, 3, 4, 7, 63))
"""An entry of a cache, oldest first; any number counts modulo the number of entries."""


# The kinds that depend on which device models there are.


def io_port_kind(models: Sequence[Placement]) -> Kind:
    """An I/O port; worth trying are those of device models, and some without a device."""
    return Kind("io_port", 2, (*(port for model in models for port in model.edges), *OTHER_PORTS))


def device_kind(models: Sequence[Placement]) -> Kind:
    """A page of the register window: the number of a PCI device, or a device model by its name in capitals."""
    pages = {model.name.upper(): model.page for model in models if model.page >= 0}
    return Kind("device", 1, (0, 1, 2, 3, 4, *pages.values(), 0xFF), names=MappingProxyType(pages))


def register_kind(models: Sequence[Placement]) -> Kind:
    """An offset in a page of the register window. `ERROR` and `ID` are those of DMA engines and virtio devices."""
    names = dict(PCI_REGISTERS)
    for model in models:
        names.update(model.registers)
    return Kind("register", 2, (*names.values(), 0x04, 0x38, 0xFF8, 0xFFF), names=MappingProxyType(names))
