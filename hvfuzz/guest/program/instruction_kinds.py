"""The table of instruction kinds: an entry here adds a kind of op.

`run/instructions.py` has the function that executes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from hvfuzz.abi.device_models import Placement
from hvfuzz.abi.kinds import GVA, Kind
from hvfuzz.guest.program.argument_kinds import (
    CACHE,
    CACHE_ENTRY,
    CAPACITY,
    CONTROL,
    CONTROL_VALUE,
    ENTRY,
    INVALIDATION,
    LEAF,
    LEVEL,
    LIMIT,
    MSR,
    PCI_DEVICE,
    PCID,
    REQUEST,
    SIZE,
    SUBLEAF,
    TIMES,
    VECTOR,
    WORD,
    device_kind,
    io_port_kind,
    register_kind,
)

TRAP_FAMILIES: Final = ("cpuid", "wait", "port_io", "ring", "paging", "msr", "tsc", "delivery")
"""Families of instructions that the guest's kernel or the hypervisor may intercept."""
ADVERSARIES: Final = ("tlb", "deny", "retain", "evict")
"""Ops that are no act of a guest, but what the hardware, or the host around the hypervisor, may do at any time."""


class InstructionKind(NamedTuple):
    """One kind of instruction: `fields` are its arguments, in order."""

    name: str
    family: str
    doc: str
    fields: dict[str, Kind]
    fetches: bool = True
    """Whether guest memory may be fetched for it: by the hypervisor, or by the processor, which reads the frame that
    IRET pops, and the IDT and the TSS when an exception is delivered."""
    writes: bool = True
    """Whether it may exit. Any exit may have the hypervisor write: at each, APIC timers raise their interrupts."""
    executed: bool = True
    """Whether a vCPU executes it."""


def instruction_kinds(numbers: Kind, models: Sequence[Placement]) -> tuple[InstructionKind, ...]:
    """All kinds, in the order of their opcodes: append new ones, or old byte forms change their meaning.

    `numbers` is the kind of a hypercall number, `models` are the device models that a guest finds.
    """
    words = Kind("words", 8, element=WORD)
    port, device, register = io_port_kind(models), device_kind(models), register_kind(models)

    def instruction(name: str, family: str, doc: str, **fields: Kind) -> InstructionKind:
        return InstructionKind(name, family, doc, fields)

    def without_fetch(name: str, family: str, doc: str, **fields: Kind) -> InstructionKind:
        """An instruction that raises no exception, and whose exit reads no guest memory."""
        return InstructionKind(name, family, doc, fields, fetches=False)

    def without_exit(name: str, family: str, doc: str, *, executed: bool = True, **fields: Kind) -> InstructionKind:
        """An instruction that raises no exception and never exits, or something that no vCPU executes."""
        return InstructionKind(name, family, doc, fields, fetches=False, writes=False, executed=executed)

    return (
        instruction("load", "access", "Read memory.", gva=GVA, size=SIZE),
        instruction("store", "access", "Write memory.", gva=GVA, size=SIZE, value=WORD),
        instruction("execute", "access", "Fetch an instruction from memory.", gva=GVA),
        instruction(
            "pte",
            "access",
            "Write the entry that maps `gva` in the stage-1 table of `level`, through the direct map.",
            gva=GVA,
            level=LEVEL,
            entry=ENTRY,
        ),
        instruction("mmio_read", "access", "Read a device register.", device=device, register=register, size=SIZE),
        instruction(
            "mmio_write",
            "access",
            "Write a device register.",
            device=device,
            register=register,
            size=SIZE,
            value=WORD,
        ),
        instruction(
            "vmcall", "raw", "VMCALL with these values of RAX and RDI; writes no argument struct.", rax=numbers, rdi=GVA
        ),
        instruction("blob", "raw", "A hypercall whose argument struct is these words.", number=numbers, words=words),
        without_fetch("cpuid", "cpuid", "CPUID.", leaf=LEAF),
        instruction("hlt", "wait", "HLT: wait for an event."),
        without_exit("pause", "wait", "PAUSE."),
        instruction("in", "port_io", "IN: read an I/O port.", port=port, size=SIZE),
        instruction("out", "port_io", "OUT: write an I/O port.", port=port, size=SIZE, value=WORD),
        instruction("syscall", "ring", "SYSCALL: enter the guest's kernel, at CPL 0."),
        instruction("sysret", "ring", "SYSRET: return to user mode, at CPL 3."),
        instruction("mov_cr", "paging", "MOV to a control register.", register=CONTROL, value=CONTROL_VALUE),
        instruction("invlpg", "paging", "INVLPG: invalidate the cached translations of one page.", gva=GVA),
        instruction("rdmsr", "msr", "RDMSR: read a model-specific register.", index=MSR),
        instruction("wrmsr", "msr", "WRMSR: write a model-specific register.", index=MSR, value=WORD),
        instruction("cli", "wait", "CLI: mask interrupts."),
        instruction("sti", "wait", "STI: unmask interrupts."),
        without_exit(
            "tlb",
            "tlb",
            "Set the capacity of the TLB, the paging-structure caches and the IOTLB, in entries.",
            capacity=CAPACITY,
        ),
        without_fetch("cpuid_count", "cpuid", "CPUID of a leaf with subleaves.", leaf=LEAF, subleaf=SUBLEAF),
        instruction("rdtsc", "tsc", "RDTSC: read the time-stamp counter."),
        instruction("rdtscp", "tsc", "RDTSCP: read the time-stamp counter and TSC_AUX."),
        instruction("sysenter", "ring", "SYSENTER: enter the guest's kernel at SYSENTER_EIP, at CPL 0."),
        instruction("sysexit", "ring", "SYSEXIT: return to user mode at RDX, at CPL 3."),
        instruction("swapgs", "ring", "SWAPGS: exchange GS_BASE and KERNEL_GS_BASE."),
        instruction("iret", "ring", "IRET: pop RIP, CS, RFLAGS, RSP and SS; CS gives the CPL."),
        instruction(
            "ins",
            "port_io",
            "REP INS: read an I/O port `times` times, to memory at `gva`.",
            port=port,
            size=SIZE,
            gva=GVA,
            times=TIMES,
        ),
        instruction(
            "outs",
            "port_io",
            "REP OUTS: write to an I/O port `times` times, from memory at `gva`.",
            port=port,
            size=SIZE,
            gva=GVA,
            times=TIMES,
        ),
        instruction("lidt", "delivery", "LIDT: load the IDT register; limit 0 means no table.", gva=GVA, limit=LIMIT),
        instruction(
            "ltr",
            "delivery",
            "LTR: load the task register; the TSS holds the stacks of interrupt handlers.",
            gva=GVA,
            limit=LIMIT,
        ),
        instruction("int", "delivery", "INT n: call the handler of a vector.", vector=VECTOR),
        instruction(
            "invpcid",
            "paging",
            "INVPCID: invalidate the cached translations of one address, one PCID, all, or all but global ones.",
            type=INVALIDATION,
            pcid=PCID,
            gva=GVA,
        ),
        instruction("read_cr", "paging", "MOV from a control register.", register=CONTROL),
        without_exit(
            "dma",
            "wakeup",
            "A device of the domain acts by itself: it does what is programmed into it. No vCPU executes this.",
            executed=False,
            device=PCI_DEVICE,
        ),
        without_exit(
            "timer",
            "wakeup",
            "Time passes until the next deadline of the vCPU or its domain. No vCPU executes this.",
            executed=False,
        ),
        without_exit(
            "deny",
            "deny",
            "Have one request of the hypervisor for memory fail in the next op, of whatever actor: number `request`.",
            request=REQUEST,
        ),
        without_exit(
            "retain", "tlb", "Drop all entries of a cache of translations but one.", cache=CACHE, entry=CACHE_ENTRY
        ),
        without_exit("evict", "tlb", "Drop one entry of a cache of translations.", cache=CACHE, entry=CACHE_ENTRY),
    )
