"""Systematic cases of instructions: IRET, fast calls, control registers, MSRs, ports, and those that may exit."""

from collections.abc import Iterator
from itertools import product
from typing import Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.processor_state import CR0_AT_START, EFER_AT_START
from hvfuzz.machine.cpu.segments import KERNEL_CS, KERNEL_SS, USER_SS
from hvfuzz.machine.mmu import paging
from hvfuzz.references.ring.case import Case, Intercept, Kind
from hvfuzz.references.ring.cases.case_builder import ALWAYS_EXITING, CaseBuilder, iret_builder
from hvfuzz.references.ring.cases.operands import (
    ADDRESSES,
    CR4_BITS,
    EPT_RIGHTS,
    FAULT_PAGES,
    MSR_INDEXES,
    MSR_VALUES,
    PORTS,
    RFLAGS_BITS,
    RIPS,
    SELECTORS,
    STACKS,
)
from hvfuzz.references.ring.memory_map import IO_BASE, MIDDLE, MSR_BITMAP, Page, gva_of, hpa_of

BOTH: Final = (False, True)
RINGS: Final = ((False, False), (False, True), (True, True))
"""(from ring 3, to ring 3) of an IRET."""
INS_OUTS: Final = (Kind.IN8, Kind.IN16, Kind.IN32, Kind.OUT8, Kind.OUT16, Kind.OUT32)


def instruction_cases() -> Iterator[Case]:
    """All of them, in a fixed order."""
    yield from _iret()
    yield from _iret_memory()
    yield from _calls()
    yield from _control_registers()
    yield from _msrs()
    yield from _ports()
    yield from _others()


def _iret() -> Iterator[Case]:
    """Every selector, flag, RIP and RSP in the frame, within and between rings."""
    for cs, ss, user in product(SELECTORS, (0, 3, KERNEL_SS, USER_SS, 0x28, 0x33, 0x40), BOTH):
        builder = iret_builder(user, user, cs=cs, ss=ss)
        yield builder.finish(f"frame with CS {cs:#x} and SS {ss:#x}")
    for ss, (source, target) in product(SELECTORS, RINGS):
        yield iret_builder(source, target, ss=ss).finish(f"frame with SS {ss:#x}")
    for rip, (source, target) in product(RIPS, RINGS):
        yield iret_builder(source, target, rip=rip).finish(f"frame with RIP {rip:#x}")
        yield iret_builder(source, target, rip=rip, ss=0x20).finish(f"frame with RIP {rip:#x} and bad SS")
    for rsp, (source, target) in product((*RIPS, *STACKS), RINGS):
        yield iret_builder(source, target, rsp=rsp).finish(f"frame with RSP {rsp:#x}")
    for bit, (source, target), iopl, now in product(range(64), RINGS, (0, 3), (0, 0x3C_0ED5)):
        builder = iret_builder(source, target, flags=1 << bit ^ now)
        builder["rflags"] |= iopl << 12 | now & (0xED5 | paging.RFLAGS_IF | 0x38_0000)
        yield builder.finish(f"frame with flag {bit}")
    for bit, (source, target) in product(RFLAGS_BITS, RINGS):
        builder = iret_builder(source, target)
        builder["rflags"] |= bit
        yield builder.finish(f"IRET under flag {bit:#x}")


def _iret_memory() -> Iterator[Case]:
    """Frames at every stack pointer, and frames that cross pages which cannot be read."""
    for stack, (source, target), align in product(STACKS, RINGS, BOTH):
        builder = iret_builder(source, target, at=stack)
        if align:
            builder["cr0"] |= paging.CR0_AM
            builder["rflags"] |= paging.RFLAGS_AC
        yield builder.finish(f"frame at {stack:#x}")
    for offset, user, what in product(range(0xFD8, 0x1000, 4), BOTH, range(6)):
        first, second = (Page.USER_STACK, Page.USER_STACK_END) if user else (Page.LOW, Page.LOW_END)
        builder = iret_builder(user, True, at=gva_of(first, 0 if user else 256) + offset)
        if what in (0, 2):
            builder.flip_pte(first, paging.P)
        if what in (1, 2):
            builder.flip_pte(second, paging.P)
        if what in (3, 5):
            builder.set_ept_rights(first, 0)
        if what in (4, 5):
            builder.set_ept_rights(second, 4)
        yield builder.finish(f"frame across pages at offset {offset:#x}")
    for bit, user, smap in product(FAULT_PAGES, BOTH, BOTH):
        builder = iret_builder(user, True)
        builder.flip_pte(Page.USER_STACK_END if user else Page.LOW_END, bit)
        builder["cr4"] |= paging.CR4_SMAP if smap else 0
        yield builder.finish(f"bit {bit:#x} of the entry of the stack")


def _calls() -> Iterator[Case]:
    """SYSCALL, SYSENTER, their returns, and SWAPGS: addresses, flags and selectors."""
    kinds = (Kind.SYSCALL, Kind.SYSRET, Kind.SYSENTER, Kind.SYSEXIT, Kind.SWAPGS)
    for kind, user, efer in product(kinds, BOTH, (EFER_AT_START, EFER_AT_START & ~paging.EFER_SCE)):
        for selector in (0, 1, 3, 4, KERNEL_CS, KERNEL_CS | 3, 0x1_0000, 0x1_0008, 0xFFF8, 0xFFFF_FFFF):
            builder = CaseBuilder(kind, user)
            builder["efer"], builder["sysenter_cs"] = efer, selector
            builder["star"] = selector << 32 & U64
            yield builder.finish(f"selector {selector:#x}")
    for kind, address, user in product((Kind.SYSRET, Kind.SYSEXIT), (*RIPS, *ADDRESSES), BOTH):
        for register in ("rcx", "rdx", "r11"):
            builder = CaseBuilder(kind, user)
            builder[register] = address
            yield builder.finish(f"{register} {address:#x}")
    for kind, bit, user in product((Kind.SYSCALL, Kind.SYSRET), range(64), BOTH):
        builder = CaseBuilder(kind, user)
        builder["r11"] = 1 << bit
        builder["fmask"] = 1 << bit & 0xFFFF_FFFF
        builder["rflags"] = 0x3C_7EFF & ~0x28
        if kind is Kind.SYSRET and user:
            continue
        yield builder.finish(f"flag {bit}")
    for kind, bit, user in product(kinds, RFLAGS_BITS, BOTH):
        builder = CaseBuilder(kind, user)
        builder["rflags"] |= bit
        yield builder.finish(f"{kind.name} under flag {bit:#x}")
    for kind, star, user in product(kinds[:2], (0, 0x1B_0008, 0x23_0013, 0xFFF3_FFF8, 0xFFFF_FFFF, 0x8_0010), BOTH):
        builder = CaseBuilder(kind, user)
        builder["star"] = star << 32
        yield builder.finish(f"STAR {star << 32:#x}")
    for kind, rip, user in product((*kinds[::2], Kind.INT), (MIDDLE - 2, MIDDLE - 3, U64 - 1, U64 - 2), BOTH):
        builder = CaseBuilder(kind, user)
        builder["rip"] = rip
        builder["argument"] = 0x80 if kind is Kind.INT else 0
        if rip + len(kind.code(0)) & (1 << 48) - 1 in (0, MIDDLE):
            yield builder.finish(f"the last instruction at {rip:#x}")


def _control_registers() -> Iterator[Case]:
    """Every register and bit, in both rings, with and without exits."""
    for kind, number, user in product((Kind.MOV_CR, Kind.READ_CR), range(8), BOTH):
        for intercept in (0, 1 << Intercept.CR3, 1 << Intercept.CR0_CR4):
            builder = CaseBuilder(kind, user)
            builder["argument"] = 0xC0 | number << 3
            masked = kind is Kind.READ_CR and intercept == 1 << Intercept.CR0_CR4  # A read gives the shadow then.
            fits = (number == 3) == (intercept == 1 << Intercept.CR3) and not masked
            builder["intercepts"] |= intercept if fits else 0
            builder["rax"] = {0: CR0_AT_START, 4: paging.CR4_PAE}.get(number, 0x4000)
            yield builder.finish(f"CR{number}")
    for bit, user in product(range(64), BOTH):
        for base in (CR0_AT_START, CR0_AT_START | paging.CR0_CD, CR0_AT_START | paging.CR0_NW | paging.CR0_CD):
            for exiting in (0, 1 << Intercept.CR0_CR4):
                builder = CaseBuilder(Kind.MOV_CR, user)
                builder["rax"] = base ^ 1 << bit
                builder["intercepts"] |= exiting
                yield builder.finish(f"bit {bit} of CR0")
        for tagged, exiting, low in product(BOTH, (0, 1 << Intercept.CR3), (0, 5)):
            builder = CaseBuilder(Kind.MOV_CR, user)
            builder["argument"] = 0xC0 | 3 << 3
            builder["rax"] = 0x4000 ^ 1 << bit | low
            builder["cr4"] |= paging.CR4_PCIDE if tagged else 0
            builder["intercepts"] |= exiting
            yield builder.finish(f"bit {bit} of CR3")
        builder = CaseBuilder(Kind.MOV_CR8, user)
        builder["rax"] = 1 << bit
        yield builder.finish(f"bit {bit} of CR8")
        for extra, pcid in product((0, paging.CR4_PCIDE, paging.CR4_SMEP | paging.CR4_SMAP), (0, 7)):
            if bit in CR4_BITS:
                builder = CaseBuilder(Kind.MOV_CR, user)
                builder["argument"] = 0xC0 | 4 << 3
                builder["rax"] = (paging.CR4_PAE | extra) ^ 1 << bit
                builder["cr3"] |= pcid
                yield builder.finish(f"bit {bit} of CR4")


def _msrs() -> Iterator[Case]:
    """Every MSR of the guest, and some that it lacks, with every value, and with exits."""
    intercepts = (1 << Intercept.MSR_BITMAP, 1 << Intercept.MSR)
    for index, user, intercept in product(MSR_INDEXES, BOTH, intercepts):
        for value in MSR_VALUES if intercept == intercepts[0] else (EFER_AT_START, 0):
            builder = CaseBuilder(Kind.WRMSR, user)
            builder["intercepts"] = intercept
            builder["rcx"], builder["rax"], builder["rdx"] = index, value & 0xFFFF_FFFF, value >> 32
            yield builder.finish(f"MSR {index:#x}, value {value:#x}")
        builder = CaseBuilder(Kind.RDMSR, user)
        builder["intercepts"], builder["rcx"] = intercept, index
        yield builder.finish(f"MSR {index:#x}")
    for index, kind, user, neighbour in product(MSR_INDEXES, (Kind.RDMSR, Kind.WRMSR), BOTH, (0, 1)):
        byte, bit = msrs.bitmap_bit(index, kind is Kind.WRMSR)
        if byte >= 0:
            builder = CaseBuilder(kind, user)
            builder["rcx"], builder["rax"], builder["rdx"] = index, EFER_AT_START, 0
            builder.write(MSR_BITMAP + byte, bytes([1 << (bit ^ neighbour)]))
            yield builder.finish(f"MSR {index:#x}, bitmap bit {neighbour}")
    for index, byte in product((msrs.PAT, msrs.EFER), range(16)):
        for place in range(8):
            builder = CaseBuilder(Kind.WRMSR)
            value = (EFER_AT_START if index == msrs.EFER else 0) ^ byte << 8 * place
            builder["rcx"], builder["rax"], builder["rdx"] = index, value & 0xFFFF_FFFF, value >> 32
            yield builder.finish(f"MSR {index:#x}, byte {place}")


def _ports() -> Iterator[Case]:
    """Every size at every port, under every IOPL, with and without an I/O permission bit map."""
    for kind, port, user, iopl in product(INS_OUTS, PORTS, BOTH, (0, 1, 2, 3)):
        builder = port_builder(kind, port, user)
        builder["rflags"] |= iopl << 12
        yield builder.finish(f"port {port:#x} under IOPL {iopl}")
    for kind, port, bits in product(INS_OUTS, PORTS, (0, 1, 2, 4, 8, 0x80, 0x100, 0xFF)):
        builder = port_builder(kind, port, True)
        add_bitmap(builder, 0x68, port, bits)
        yield builder.finish(f"port {port:#x} with map bits {bits:#x}")
    for kind, port, delta in product(INS_OUTS, (0, 7, 8, 0x3F8, 0xFFFF), range(-2, 3)):
        builder = port_builder(kind, port, True)
        add_bitmap(builder, 0x68, port, 0)
        builder["tss_limit"] = 0x68 + (port >> 3) + delta
        yield builder.finish(f"port {port:#x} near the limit of the map")
    for kind, base in product(INS_OUTS, (0, 0x20, 0x67, 0xDFFF, 0xFFFF, 0xFF8)):
        builder = port_builder(kind, 0x10, True)
        add_bitmap(builder, base, 0x10, 0)
        yield builder.finish(f"map at {base:#x}")
    for kind, what, port in product(INS_OUTS, range(6), (0x7CBB, 0x7CBF, 0x7CC0)):
        builder = port_builder(kind, port, True)
        add_bitmap(builder, 0x68, port, 0)
        page = Page.TSS_1 if what & 1 else Page.TSS
        if what < 2:
            builder.flip_pte(page, paging.P)
        elif what < 4:
            builder.set_ept_rights(page, 0)
        elif what == 4:
            builder.flip_pte(page, paging.US)
            builder["cr4"] |= paging.CR4_SMAP
            builder["rflags"] |= paging.RFLAGS_AC
        yield builder.finish(f"map page {page.name} refused, {what}")
    for limit in range(0x60, 0x6B):
        builder = port_builder(Kind.IN8, 0, True)
        builder["tss_limit"] = limit
        yield builder.finish(f"TSS limit {limit:#x}")


def port_builder(kind: Kind, port: int, user: bool) -> CaseBuilder:
    """A builder of an access to a port."""
    builder = CaseBuilder(kind, user)
    builder["rdx"] = port
    builder["rax"] = {Kind.OUT8: 0x5A, Kind.OUT16: 0x5AA5}.get(kind, 0x1111_2222)
    return builder


def add_bitmap(builder: CaseBuilder, base: int, port: int, bits: int) -> None:
    """Give the TSS a whole I/O permission bit map at offset `base`, with 16 bits of the map for `port`."""
    builder["tss_limit"] = 0xFFFF if base > 0x2000 else base + 0x2000
    builder.write(hpa_of(Page.TSS) + IO_BASE, base.to_bytes(2, "little"))
    builder.write_at(gva_of(Page.TSS) + base + (port >> 3), (bits << (port & 7) & 0xFFFF).to_bytes(2, "little"))


def _others() -> Iterator[Case]:
    """CLI and STI, invalidations, and the instructions that may exit, under every flag and in both rings."""
    simple = (Kind.CLI, Kind.STI, Kind.PAUSE, Kind.CPUID, Kind.RDTSC, Kind.RDTSCP, Kind.VMCALL, Kind.HLT, Kind.INVLPG)
    exits = tuple(1 << intercept for intercept in (Intercept.RDTSC, Intercept.PAUSE, Intercept.INVLPG, Intercept.HLT))
    for kind, user, intercept, flags in product(simple, BOTH, (0, *exits), (0, *RFLAGS_BITS)):
        for tsd in (0, paging.CR4_TSD):
            builder = CaseBuilder(kind, user)
            builder["rflags"] |= flags | paging.RFLAGS_IF & flags << 1
            builder["intercepts"] = ALWAYS_EXITING | intercept
            builder["cr4"] |= tsd
            yield builder.finish(f"{kind.name} under flags {flags:#x}")
    for iopl, flag, user, kind in product(range(4), (0, paging.RFLAGS_IF), BOTH, (Kind.CLI, Kind.STI)):
        builder = CaseBuilder(kind, user)
        builder["rflags"] |= iopl << 12 | flag
        yield builder.finish(f"IOPL {iopl}")
    for address, user, intercept in product((*RIPS, *ADDRESSES), BOTH, (0, 1 << Intercept.INVLPG)):
        builder = CaseBuilder(Kind.INVLPG, user)
        builder["rdi"] = address
        builder["intercepts"] |= intercept
        yield builder.finish(f"address {address:#x}")
    pcids = (0, 1, 0xFFF, 0x1000, 1 << 32, 1 << 63)
    for invalidation, pcid, address, tagged in product((0, 1, 2, 3, 4, 0xFFFF_FFFF), pcids, (0, MIDDLE, U64), BOTH):
        for user, intercept in ((False, 0), (False, 1 << Intercept.INVLPG), (True, 0)):
            builder = CaseBuilder(Kind.INVPCID, user)
            builder["rax"] = invalidation
            builder["cr4"] |= paging.CR4_PCIDE if tagged else 0
            builder["intercepts"] |= intercept
            builder.set_operand(pcid.to_bytes(8, "little") + address.to_bytes(8, "little"))
            yield builder.finish(f"type {invalidation:#x}, PCID {pcid:#x}, address {address:#x}")
    for base, limit, user in product((*RIPS, *ADDRESSES), (1, 0xFFF, 0xFFFF), BOTH):
        builder = CaseBuilder(Kind.LIDT, user)
        builder.set_operand(limit.to_bytes(2, "little") + base.to_bytes(8, "little"))
        yield builder.finish(f"IDT at {base:#x}")
    for kind, user, rights, address in product((Kind.LOAD, Kind.STORE), BOTH, EPT_RIGHTS, (0, 3, 0xFFC)):
        builder = CaseBuilder(kind, user)
        builder["rdi"] = gva_of(Page.USER_STACK) + address
        builder.set_ept_rights(Page.USER_STACK, rights)
        builder["cr0"] |= paging.CR0_AM
        builder["rflags"] |= paging.RFLAGS_AC if address else 0
        yield builder.finish(f"{kind.name} under EPT rights {rights}")
