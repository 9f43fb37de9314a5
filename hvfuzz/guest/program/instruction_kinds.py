"""The instructions that a guest can execute, one entry each."""

from __future__ import annotations

from typing import Final, NamedTuple

from hvfuzz.abi.kinds import GVA, Kind
from hvfuzz.guest.program.argument_kinds import (
    CAPACITY,
    CONTROL,
    CONTROL_VALUE,
    DEVICE,
    ENTRY,
    INVALIDATION,
    IO_PORT,
    LEAF,
    LEVEL,
    LIMIT,
    MSR,
    PCID,
    REGISTER,
    SIZE,
    SUBLEAF,
    TIMES,
    VECTOR,
    WORD,
)

FETCHING_INSTRUCTIONS: Final = ("mmio_write",)
"""Instructions for which the hypervisor may read guest memory: a write that is queued finds its ring there."""


class InstructionKind(NamedTuple):
    name: str
    family: str
    doc: str
    fields: dict[str, Kind]


def instruction_kinds(numbers: Kind) -> tuple[InstructionKind, ...]:
    """In the order of their opcodes: new ones are appended. `numbers` are the numbers of calls."""
    words = Kind("words", 8, element=WORD)

    def instruction(name: str, family: str, doc: str, **fields: Kind) -> InstructionKind:
        return InstructionKind(name, family, doc, fields)

    return (
        instruction("load", "access", "Read memory.", gva=GVA, size=SIZE),
        instruction("store", "access", "Write memory.", gva=GVA, size=SIZE, value=WORD),
        instruction("execute", "access", "Fetch an instruction from memory.", gva=GVA),
        instruction(
            "pte",
            "access",
            "Write the entry of the stage-1 table of that level which maps `gva`, through the direct map.",
            gva=GVA,
            level=LEVEL,
            entry=ENTRY,
        ),
        instruction("mmio_read", "access", "Read a device register.", device=DEVICE, register=REGISTER, size=SIZE),
        instruction(
            "mmio_write",
            "access",
            "Write a device register.",
            device=DEVICE,
            register=REGISTER,
            size=SIZE,
            value=WORD,
        ),
        instruction("vmcall", "raw", "VMCALL over whatever memory holds.", rax=numbers, rdi=GVA),
        instruction("blob", "raw", "A hypercall whose struct is these raw words.", number=numbers, words=words),
        instruction("cpuid", "trap", "CPUID.", leaf=LEAF),
        instruction("hlt", "trap", "HLT: wait for an event."),
        instruction("pause", "trap", "PAUSE."),
        instruction("in", "trap", "Read an I/O port.", port=IO_PORT, size=SIZE),
        instruction("out", "trap", "Write an I/O port.", port=IO_PORT, size=SIZE, value=WORD),
        instruction("syscall", "trap", "Enter the guest's kernel: CPL 0 from here on."),
        instruction("sysret", "trap", "Return to the guest's user mode: CPL 3 from here on."),
        instruction("mov_cr", "trap", "Write a control register.", register=CONTROL, value=CONTROL_VALUE),
        instruction("invlpg", "trap", "Drop the cached translations of one page.", gva=GVA),
        instruction("rdmsr", "trap", "Read a model-specific register.", index=MSR),
        instruction("wrmsr", "trap", "Write a model-specific register.", index=MSR, value=WORD),
        instruction("cli", "trap", "Mask interrupts."),
        instruction("sti", "trap", "Unmask interrupts."),
        instruction(
            "tlb",
            "tlb",
            "From here on the machine keeps this many translations, and ways to tables, of a sort.",
            capacity=CAPACITY,
        ),
        instruction("cpuid_count", "trap", "CPUID of a leaf that has several parts.", leaf=LEAF, subleaf=SUBLEAF),
        instruction("rdtsc", "trap", "Read the time-stamp counter."),
        instruction("rdtscp", "trap", "Read the time-stamp counter and TSC_AUX."),
        instruction("sysenter", "trap", "Enter the guest's kernel at SYSENTER_EIP: CPL 0 from here on."),
        instruction("sysexit", "trap", "Return to user mode at RDX: CPL 3 from here on."),
        instruction("swapgs", "trap", "Let GS_BASE and KERNEL_GS_BASE change places."),
        instruction("iret", "trap", "Pop RIP, CS, RFLAGS, RSP and SS, and go on there: in ring 3, if CS says so."),
        instruction(
            "ins",
            "trap",
            "Read an I/O port, and store what comes in memory, so many times.",
            port=IO_PORT,
            size=SIZE,
            gva=GVA,
            times=TIMES,
        ),
        instruction(
            "outs",
            "trap",
            "Write what is in memory to an I/O port, so many times.",
            port=IO_PORT,
            size=SIZE,
            gva=GVA,
            times=TIMES,
        ),
        instruction("lidt", "trap", "Load the table of handlers; limit 0 is none.", gva=GVA, limit=LIMIT),
        instruction("ltr", "trap", "Load the TSS, which holds the stacks of handlers.", gva=GVA, limit=LIMIT),
        instruction("int", "trap", "Call a handler.", vector=VECTOR),
        instruction(
            "invpcid",
            "trap",
            "Drop cached translations: of an address (0), of a PCID (1), all with global ones (2), all others (3).",
            type=INVALIDATION,
            pcid=PCID,
            gva=GVA,
        ),
    )
