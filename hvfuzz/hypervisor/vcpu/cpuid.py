"""CPUID as every guest sees it: the emulated processor and the hypervisor, nothing of the host (SDM Vol. 2A, CPUID).

A feature is reported exactly if the machine implements it; the valid bits of CR4 and EFER and the set of MSRs follow
the same list. The leaves of caches, brand string and power management are zero.
"""

from __future__ import annotations

from hvfuzz.abi.boot import CPUID_NAME, CPUID_SIGNATURE, CPUID_VERSION
from hvfuzz.abi.versions import CURRENT
from hvfuzz.machine.addresses import MAXPHYADDR

Leaf = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

VENDOR = b"GenuineIntel"
"""EBX, EDX and ECX of leaf 0, four bytes each."""
MODEL = 0x0005_0654
"""Family 6, model 0x55, stepping 4: a Skylake server, as are the costs in `machine.clock`."""
LINEAR_BITS = 48
FEATURES_ECX = (17, 21, 31)
"""Leaf 1: PCID, x2APIC, hypervisor present."""
FEATURES_EDX = (0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 24, 25, 26)
"""Leaf 1: FPU, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, FXSR, SSE, SSE2."""
STRUCTURED_EBX = (7, 10, 20)
"""Leaf 7: SMEP, INVPCID, SMAP."""
STRUCTURED_EDX = (29,)
"""Leaf 7: ARCH_CAPABILITIES."""
EXTENDED_EDX = (11, 20, 26, 27, 29)
"""Leaf 0x80000001: SYSCALL, NX, 1 GiB pages, RDTSCP, 64-bit mode."""

LAST_BASIC = 0xB
TOPOLOGY = 0xB
HYPERVISOR_LEAVES = range(0x4000_0000, 0x5000_0000)
EXTENDED = 0x8000_0000
LAST_EXTENDED = EXTENDED + 8
SMT, CORE = 1, 2
"""Level types of leaf 0xB."""
NOTHING: Leaf = (0, 0, 0, 0)


def cpuid_leaf(leaf: int, subleaf: int, apic_id: int, vcpus: int) -> Leaf:
    """CPUID of `leaf` (EAX) and `subleaf` (ECX) on vCPU `apic_id` of a domain with `vcpus` vCPUs."""
    # Reserved for hypervisors (SDM Vol. 2A, CPUID: invalid for the processor); unknown ones are zero.
    if leaf in HYPERVISOR_LEAVES:
        return hypervisor_leaf(leaf)
    # SDM Vol. 2A, CPUID: a leaf above the maximum of its range returns the data of the highest basic leaf.
    if not (leaf <= LAST_BASIC or EXTENDED <= leaf <= LAST_EXTENDED):
        leaf = LAST_BASIC
    if leaf == TOPOLOGY:
        return topology(subleaf, apic_id, vcpus)
    if leaf == 0:
        return LAST_BASIC, word(VENDOR, 0), word(VENDOR, 2), word(VENDOR, 1)
    if leaf == 1:
        return MODEL, apic_id << 24, bits(FEATURES_ECX), bits(FEATURES_EDX)
    if leaf == 7 and subleaf == 0:
        return 0, bits(STRUCTURED_EBX), 0, bits(STRUCTURED_EDX)
    if leaf == EXTENDED:
        return LAST_EXTENDED, 0, 0, 0
    if leaf == EXTENDED + 1:
        return 0, 0, 0, bits(EXTENDED_EDX)
    if leaf == LAST_EXTENDED:
        return LINEAR_BITS << 8 | MAXPHYADDR, 0, 0, 0
    return NOTHING


def hypervisor_leaf(leaf: int) -> Leaf:
    """The hypervisor's leaves: signature and highest leaf, then version."""
    if leaf == CPUID_SIGNATURE:
        return CPUID_VERSION, word(CPUID_NAME, 0), word(CPUID_NAME, 1), word(CPUID_NAME, 2)
    return (CURRENT, 0, 0, 0) if leaf == CPUID_VERSION else NOTHING


def topology(level: int, apic_id: int, vcpus: int) -> Leaf:
    """Leaf 0xB, extended topology: one thread per core, one core per vCPU, no third level."""
    if level == 0:
        return 0, 1, SMT << 8, apic_id
    if level == 1:
        return (vcpus - 1).bit_length(), vcpus, CORE << 8 | 1, apic_id
    return 0, 0, level & 0xFF, apic_id


def word(text: bytes, number: int) -> int:
    """Bytes 4 * `number` to 4 * `number` + 3 of `text`, as a register holds them."""
    return int.from_bytes(text[4 * number :][:4], "little")


def bits(numbers: tuple[int, ...]) -> int:
    """A register with these bits set."""
    return sum(1 << number for number in numbers)
