"""Random cases from a seeded generator: a boundary case of each family, with up to three more things changed."""

from collections.abc import Iterator
from functools import cache
from itertools import chain, count
from random import Random
from typing import Final

from hvfuzz.machine.addresses import U64, is_canonical
from hvfuzz.machine.cpu.segments import KERNEL_CS, USER_CS
from hvfuzz.machine.mmu import paging
from hvfuzz.references.ring.case import Case, Intercept, Kind
from hvfuzz.references.ring.cases.case_builder import CaseBuilder, iret_builder
from hvfuzz.references.ring.cases.delivery_cases import Path, Trigger, delivery_cases, on_path
from hvfuzz.references.ring.cases.entry_cases import entry_cases
from hvfuzz.references.ring.cases.instruction_cases import INS_OUTS, add_bitmap, instruction_cases, port_builder
from hvfuzz.references.ring.cases.operands import (
    ADDRESSES,
    EPT_RIGHTS,
    FAULT_PAGES,
    LIMITS,
    MSR_INDEXES,
    MSR_VALUES,
    PORTS,
    RFLAGS_BITS,
    RIPS,
    SELECTORS,
    STACKS,
)
from hvfuzz.references.ring.memory_map import IST1, RSP0, Page, gva_of, hpa_of, pte_of

_FAULTS: Final = (0, 1, 1, 2, 2, 3)
_STACK_PAGES: Final = (
    Page.LOW,
    Page.LOW_END,
    Page.RSP0,
    Page.RSP0_END,
    Page.IST,
    Page.IST_END,
    Page.USER_STACK,
    Page.USER_STACK_END,
    Page.TOP,
)
_SYSTEM_PAGES: Final = (Page.IDT, Page.TSS, Page.TSS_1)
_TARGETS: Final = tuple(rip for rip in RIPS if is_canonical(rip))
"""Handlers that are not canonical are left to the boundary cases: Bochs reaches them by another way."""
_FLAGS: Final = 0x3D_7ED7
"""All flags but TF: there are no debug exceptions."""
_CALLS: Final = (Kind.SYSCALL, Kind.SYSRET, Kind.SYSENTER, Kind.SYSEXIT)


def mixed_cases(cases: int, seed: int) -> Iterator[Case]:
    """`cases` cases: boundary cases in random order, each followed by a random case; then random cases only."""
    rng = Random(seed)
    boundary = list(boundary_cases())
    rng.shuffle(boundary)
    mixed = chain.from_iterable((case, random_case(rng)) for case in boundary)
    for number, case in enumerate(chain(mixed, (random_case(rng) for _ in count()))):
        if number == cases:
            return
        yield case


@cache
def boundary_cases() -> tuple[Case, ...]:
    """All systematic cases, in a fixed order."""
    return (*delivery_cases(), *instruction_cases(), *entry_cases())


def random_case(rng: Random) -> Case:
    """A random case."""
    family = rng.choices((_delivery, _iret, _call, _port, _msr, _control_register), (8, 5, 3, 2, 1, 1))[0]
    builder = family(rng)
    if rng.random() < 0.5:
        builder["rflags"] |= rng.getrandbits(22) & _FLAGS
    for _ in range(rng.choice(_FAULTS)):
        rng.choices((_memory_fault, _gate_fault, _register_fault), (5, 3, 3))[0](builder, rng)
    return builder.finish("random")


def _delivery(rng: Random) -> CaseBuilder:
    """A delivery with a random gate and stack."""
    path, trigger = rng.choice(tuple(Path)), rng.choice(tuple(Trigger))
    offset = rng.choice((0, 8, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x400, 0x407))
    stack = rng.choice(STACKS) if rng.random() < 0.3 else gva_of(rng.choice(_STACK_PAGES)) + offset
    builder = on_path(path, trigger, stack if rng.random() < 0.7 else None)
    if rng.random() < 0.1 and not builder.user:
        builder["null_ss"] = True
    return builder


def _iret(rng: Random) -> CaseBuilder:
    """An IRET from a random frame; most of its fields are good."""

    def draw(values: tuple[int, ...]) -> int | None:
        return rng.choice(values) if rng.random() < 0.15 else None

    source = rng.random() < 0.5
    at = draw(STACKS) if rng.random() < 0.5 else None
    flags = rng.getrandbits(22) if rng.random() < 0.7 else rng.getrandbits(64)
    return iret_builder(
        source,
        source or rng.random() < 0.6,
        at=at,
        rip=draw(RIPS),
        cs=draw(SELECTORS),
        flags=flags,
        rsp=draw((*RIPS, *STACKS)),
        ss=draw(SELECTORS),
    )


def _call(rng: Random) -> CaseBuilder:
    """A fast call or return with random registers."""
    builder = CaseBuilder(rng.choice(_CALLS), rng.random() < 0.3)
    for register in ("rcx", "rdx"):
        if rng.random() < 0.4:
            builder[register] = rng.choice((*RIPS, *ADDRESSES))
    builder["r11"] = rng.getrandbits(64) & ~(1 << 8)
    builder["fmask"] = rng.getrandbits(32)
    if rng.random() < 0.5:
        builder["star"] = rng.getrandbits(64)
    if rng.random() < 0.4:
        builder["sysenter_cs"] = rng.choice(SELECTORS)
    for address in ("lstar", "sysenter_esp", "sysenter_eip"):
        if rng.random() < 0.3:
            builder[address] = rng.choice(_TARGETS)
    return builder


def _port(rng: Random) -> CaseBuilder:
    """An access to a port in ring 3, most often with a bit map."""
    port = rng.choice(PORTS) if rng.random() < 0.5 else rng.getrandbits(16)
    builder = port_builder(rng.choice(INS_OUTS), port, rng.random() < 0.9)
    if rng.random() < 0.8:
        add_bitmap(builder, rng.choice((0x68, 0x68, 0x70, 0xF00, 0xFFE)), port, rng.choice((0, 0, 1, 2, 4, 8, 0x100)))
        if rng.random() < 0.3:
            builder["tss_limit"] = 0x68 + (port >> 3) + rng.randrange(-2, 4)
    return builder


def _msr(rng: Random) -> CaseBuilder:
    """RDMSR or WRMSR of a random value."""
    builder = CaseBuilder(rng.choice((Kind.RDMSR, Kind.WRMSR)), rng.random() < 0.1)
    value = rng.choice(MSR_VALUES) ^ (1 << rng.randrange(64) if rng.random() < 0.5 else 0)
    builder["rcx"], builder["rax"], builder["rdx"] = rng.choice(MSR_INDEXES), value & 0xFFFF_FFFF, value >> 32
    if rng.random() < 0.2:
        builder["intercepts"] ^= 1 << Intercept.MSR | 1 << Intercept.MSR_BITMAP
    return builder


def _control_register(rng: Random) -> CaseBuilder:
    """MOV to CR0 or CR3 of a random value."""
    builder = CaseBuilder(Kind.MOV_CR, rng.random() < 0.1)
    builder["argument"] = 0xC0 | rng.choice((0, 2, 3)) << 3
    builder["rax"] = builder["cr0"] ^ rng.getrandbits(32) & rng.getrandbits(32) & rng.getrandbits(32)
    builder["cr4"] |= rng.choice((0, paging.CR4_PCIDE))
    return builder


def _memory_fault(builder: CaseBuilder, rng: Random) -> None:
    """Change the entry of a page, or the EPT rights of one."""
    page = rng.choice(_STACK_PAGES if rng.random() < 0.7 else _SYSTEM_PAGES)
    if rng.random() < 0.5:
        builder.set_ept_rights(page, rng.choice(EPT_RIGHTS))
    else:
        builder.flip(pte_of(page), rng.choice((*FAULT_PAGES, paging.A, paging.D)))


def _gate_fault(builder: CaseBuilder, rng: Random) -> None:
    """Rewrite a gate, or a stack that gates use."""
    vector = rng.choice((builder["argument"], *range(6, 15), 13, 14, 8))
    if rng.random() < 0.3:
        offset = rng.choice((RSP0, IST1, IST1 + 8))
        builder.write(hpa_of(Page.TSS) + offset, rng.choice(STACKS).to_bytes(8, "little"))
        return
    builder.gate(
        vector & 0xFF,
        target=rng.choice(_TARGETS) if rng.random() < 0.2 else None,
        selector=rng.choice((KERNEL_CS, KERNEL_CS, USER_CS, rng.choice(SELECTORS))),
        kind=rng.choice((0x8E, 0xEE, 0xEE, 0xEF, 0x8F, 0x0E, 0x8C)),
        ist=rng.choice((0, 0, 1, 2, 7)),
    )


def _register_fault(builder: CaseBuilder, rng: Random) -> None:
    """Change a register that many cases use."""
    what = rng.randrange(6)
    if what == 0:
        builder["idt_limit"] = rng.choice(LIMITS) if rng.random() < 0.5 else 16 * rng.choice((8, 13, 14, 0x80)) + 14
    elif what == 1:
        builder["tss_limit"] = rng.choice((3, 0xA, 0xB, 0x2A, 0x2B, 0x67, 0x2067))
    elif what == 2:
        builder["cr4"] |= rng.choice((paging.CR4_SMAP, paging.CR4_SMEP))
    elif what == 3:
        builder["cr0"] ^= rng.choice((paging.CR0_WP, paging.CR0_AM))
    elif what == 4:
        builder["rflags"] |= rng.choice(RFLAGS_BITS)
    else:
        builder["rsp"] = rng.choice(STACKS) & U64
