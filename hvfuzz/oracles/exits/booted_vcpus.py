"""What every vCPU must be after boot, derived from the world and the processor's manual, not from the present state.

`abi/boot.py` says which vCPUs there are and how their address spaces look; SDM Vol. 3C, chapter 25, says what a VMCS
must hold for the intercepts that ABI.md promises. Helper of the oracle `exits`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.boot import DIRECT_MAP, PML4_GFN, USER_BASE
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.cpu.registers import RCX, REGISTERS, RFLAGS, RIP, Reg
from hvfuzz.machine.cpu.segments import KERNEL_CS, KERNEL_SS, STAR_OF_FLAT_SEGMENTS
from hvfuzz.oracles.contract.spec.platform import apic

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.exits.local_apics import Apics
    from hvfuzz.oracles.scene.scene import Scene

CR0: Final = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1
"""PG, WP, NE, ET, MP, PE."""
CR4: Final = 1 << 5
"""PAE."""
EFER: Final = 1 << 11 | 1 << 10 | 1 << 8 | 1
"""NXE, LMA, LME, SCE."""
ENTRY: Final = DIRECT_MAP + 0x9000
"""Where the kernel begins, and where SYSCALL enters it."""
STACK: Final = DIRECT_MAP + 0xF000
"""Top of the kernel's stack."""
LSTAR, STAR, PAT = 0xC000_0082, 0xC000_0081, 0x277
PAT_AT_RESET: Final = 0x0007_0406_0007_0406
"""SDM Vol. 3A, table 12-12."""
INTERCEPTS: Final = 1 << 12 | 1 << 16 | 1 << 30 | 1 << 51
"""HLT, RDTSC, port I/O, RDTSCP by their exit reasons (SDM Vol. 3D, appendix C)."""
WALK: Final = 6 | 3 << 3
"""Bits of an EPTP beside the address: write-back, 4 levels, no accessed and dirty flags (SDM Vol. 3C, table 25-9)."""
HELD: Final = (0x174, 0x175, 0x176, PAT, *range(0xC000_0080, 0xC000_0085), *range(0xC000_0100, 0xC000_0104))
"""MSRs that the processor holds for the guest, whose accesses do not exit: SYSENTER, PAT, EFER, SYSCALL, the bases of
FS and GS, TSC_AUX. All other accesses exit (ABI.md)."""
HALF: Final = 2048
"""The bitmaps of reads come first, then those of writes; in each, MSRs from 0 on, then those from 0xC0000000 on."""
QUARTER: Final = 1024
TABLE_OF_HYPERVISOR: Final = "TABLE, the hypervisor"


def bitmap() -> bytes:
    """The MSR bitmap (SDM Vol. 3C, 25.6.9)."""
    bits = bytearray(b"\xff" * PAGE_SIZE)
    for index in HELD:
        for first in (0, HALF):
            byte = first + (QUARTER if index >> 31 else 0) + (index & 0x1FFF) // 8
            bits[byte] &= ~(1 << index % 8)
    return bytes(bits)


def apic_words(index: int) -> apic.Words:
    """The registers of the local APIC of vCPU `index` after power-up, in x2APIC mode (SDM Vol. 3A, 11.4.7.1, 11.12)."""
    words = [0] * apic.PLACES
    words[0x02] = index
    words[0x03] = 0x14 | 5 << 16  # version 14H, six local vectors
    words[apic.LDR] = index // 16 << 16 | 1 << index % 16
    words[apic.SVR] = 0xFF
    for lvt in range(apic.LVT_TIMER, apic.LVT_ERROR + 1):
        words[lvt] = apic.MASK
    return words


def faults(scene: Scene, apics: Apics) -> Iterator[tuple[str, str]]:
    """Yield (rule, message) for everything in which a vCPU is not as it must be."""
    vcpus = scene.machine.vcpus
    wanted = [(number, index) for number, each in enumerate(scene.world.domains) for index in range(each.vcpus)]
    found = [(vcpu.domain, vcpu.index) for vcpu in vcpus]
    if found != wanted:
        yield "control", f"the vCPUs are those of domains {found}, expected {wanted}"
        return
    vpids: dict[int, VCpu] = {}
    tables: dict[int, int] = {}
    expected_bitmap = bitmap()
    for vcpu in vcpus:
        for name, is_, should in _state(vcpu):
            if is_ != should:
                yield "registers", f"{name} of {_name(vcpu)} is {_shown(is_)}, expected {_shown(should)}"
        if not vcpu.vpid:
            yield "control", f"{_name(vcpu)} has VPID 0, which is the host's"
        elif vcpu.vpid in vpids:
            yield "control", f"{_name(vcpu)} has VPID {vcpu.vpid}, as {_name(vpids[vcpu.vpid])} has"
        vpids.setdefault(vcpu.vpid, vcpu)
        owner = tables.setdefault(vcpu.eptp, vcpu.domain)
        if owner != vcpu.domain or [each.domain for each in vcpus if each.domain == owner and each.eptp != vcpu.eptp]:
            yield "control", f"{_name(vcpu)} has EPTP {vcpu.eptp:#x}, which is not that of its domain alone"
        if vcpu.eptp & PAGE_MASK != WALK:
            yield "control", f"{_name(vcpu)} has EPTP {vcpu.eptp:#x}: not 4 levels of write-back tables without flags"
        vmcs = vcpu.vmcs
        if vmcs.intercepts != INTERCEPTS:
            yield "control", f"{_name(vcpu)} has intercepts {vmcs.intercepts:#x}, expected {INTERCEPTS:#x}"
        if vmcs.tsc_offset:
            yield "control", f"{_name(vcpu)} has TSC offset {vmcs.tsc_offset:#x}, expected 0"
        place = vmcs.msr_bitmap
        bits = bytes(scene.machine.memory.data[place : place + PAGE_SIZE])
        if not place or place & PAGE_MASK or TABLE_OF_HYPERVISOR not in scene.describe(place >> PAGE_SHIFT):
            yield "control", f"the MSR bitmap of {_name(vcpu)} is at {place:#x}, in no table page of the hypervisor"
        elif bits != expected_bitmap:
            at = next(at for at in range(PAGE_SIZE) if bits[at] != expected_bitmap[at])
            yield "control", f"byte {at:#x} of the MSR bitmap of {_name(vcpu)} is {bits[at]:#x}"
        words, expected = apics.words(vcpu), apic_words(vcpu.index)
        for place, (is_, should) in enumerate(zip(words, expected, strict=True)):
            if is_ != should:
                yield "interrupt", f"register {place:#x} of the APIC of {_name(vcpu)} is {is_:#x}, expected {should:#x}"


def _state(vcpu: VCpu) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, expected value) of all that the guest can see or that decides what it may do."""
    registers = [0] * REGISTERS
    registers[RIP], registers[Reg.RSP], registers[RCX], registers[RFLAGS] = ENTRY, STACK, USER_BASE, 2
    for place in range(REGISTERS):
        yield Reg(place).name, vcpu.regs[place], registers[place]
    yield from (("CR0", vcpu.cr0, CR0), ("CR2", vcpu.cr2, 0), ("CR3", vcpu.cr3, PML4_GFN << PAGE_SHIFT))
    yield from (("CR4", vcpu.cr4, CR4), ("EFER", vcpu.efer, EFER), ("CPL", vcpu.cpl, 0))
    yield from (("CS", vcpu.cs, KERNEL_CS), ("SS", vcpu.ss, KERNEL_SS))
    yield from (("IDTR", vcpu.idtr, (0, 0)), ("TR", vcpu.tr, (0, 0)))
    msrs = {PAT: PAT_AT_RESET, LSTAR: ENTRY, STAR: STAR_OF_FLAT_SEGMENTS}
    yield "the MSRs", {index: value for index, value in sorted(vcpu.msrs.items()) if value}, dict(sorted(msrs.items()))
    yield from (("the run state", vcpu.runnable, 0), ("the pending exception", vcpu.pending_fault, None))
    yield from (("the pending upcall", vcpu.upcall_pending, False), ("root mode", vcpu.in_root, False))


def _name(vcpu: VCpu) -> str:
    return f"vCPU {vcpu.index} of dom{vcpu.domain}"


def _shown(value: Any) -> str:
    return hex(value) if isinstance(value, int) else f"{value}"
