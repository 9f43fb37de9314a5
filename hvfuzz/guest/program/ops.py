"""The kinds of ops there are: every hypercall of an ABI, and the instructions that a guest can execute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.abi.boot import COALESCED, CPUID_SIGNATURE, CPUID_VERSION, FIFO_PORT, IOAPIC, TIMER, UART_PORT, UART_PORTS
from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.kinds import GVA, Kind
from hvfuzz.abi.layout import Field
from hvfuzz.abi.registry import Abi

ANY_RESOURCE: Final = "any"
"""What a field consumes that takes the result of any earlier op that has one."""
INSTRUCTION_CODES: Final = 0x80
"""First opcode byte of the instructions; below, the opcode byte of a hypercall is its number."""
SIZES: Final = (1, 2, 4, 8)
"""Operand sizes in bytes. An op with any other `size` is performed with 8."""


@dataclass(frozen=True, slots=True, eq=False)
class OpKind:
    """One kind of op. Two kinds are the same only if they are one object of one catalogue."""

    name: str
    code: int
    """Opcode byte of the byte form."""
    family: str
    fields: tuple[Field, ...]
    produces: str | None
    """Resource that its result is, if it succeeds."""
    number: int | None
    """RAX of a hypercall; None for an instruction."""
    declaration: Declaration | None
    doc: str
    fetches: bool
    """Whether the hypervisor reads guest memory for it, so that it can be raced."""
    index: Mapping[str, int] = field(init=False)
    """Position of each field by name."""
    follow: int | None = field(init=False)
    """Position of the field that batches the ops which follow, if there is one."""
    consumes: bool = field(init=False)
    """Whether any of its arguments may be the result of an earlier op."""

    def __post_init__(self) -> None:
        positions = {each.name: position for position, each in enumerate(self.fields)}
        follow = next((i for i, each in enumerate(self.fields) if each.kind.follow), None)
        object.__setattr__(self, "index", MappingProxyType(positions))
        object.__setattr__(self, "follow", follow)
        object.__setattr__(self, "consumes", any(_consumes(each.kind) for each in self.fields))

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _consumes(kind: Kind) -> bool:
    if kind.consumes is not None:
        return True
    return kind.element is not None and any(map(_consumes, (kind.element, *kind.head, *kind.record)))


class Catalogue:
    """All kinds of ops over one ABI: hypercalls by number, then instructions by code."""

    __slots__ = ("by_code", "by_name", "kinds", "producers")

    def __init__(self, kinds: Iterable[OpKind]) -> None:
        self.kinds: Final = tuple(kinds)
        self.by_name: Final = {kind.name: kind for kind in self.kinds}
        self.by_code: Final = {kind.code: kind for kind in self.kinds}
        producers: dict[str, tuple[OpKind, ...]] = {}
        for kind in self.kinds:
            if kind.produces is not None:
                producers[kind.produces] = (*producers.get(kind.produces, ()), kind)
        self.producers: Final = producers
        """The kinds whose result is a given resource."""
        if len(self.by_name) != len(self.kinds) or len(self.by_code) != len(self.kinds):
            raise ValueError("two kinds of ops share a name or a code")


def _kind(
    name: str,
    width: int,
    edges: tuple[int, ...] = (),
    *,
    names: Mapping[str, int] = MappingProxyType({}),
    consumes: str | None = None,
    element: Kind | None = None,
) -> Kind:
    return Kind(name, width, edges, consumes=consumes, names=names, element=element)


MSRS: Final = MappingProxyType(
    {
        # SDM Vol. 4 table 2-2; x2APIC registers lie at 0x800..0xbff.
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
CONTROL_REGISTERS: Final = MappingProxyType({"CR0": 0, "CR3": 3, "CR4": 4})
DEVICE_REGISTERS: Final = MappingProxyType(
    {"SRC": 0x00, "DST": 0x08, "LENGTH": 0x10, "CONTROL": 0x18, "STATUS": 0x20, "ERROR": 0x28, "ID": 0x30}
)
VIRTIO_REGISTERS: Final = MappingProxyType(
    {
        "DEVICE_FEATURES": 0x40,
        "DRIVER_FEATURES": 0x48,
        "QUEUE_SELECT": 0x50,
        "QUEUE_SIZE": 0x58,
        "QUEUE_DESC": 0x60,
        "QUEUE_DRIVER": 0x68,
        "QUEUE_DEVICE": 0x70,
        "QUEUE_ENABLE": 0x78,
        "NOTIFY": 0x80,
        "DEVICE_STATUS": 0x88,
        "ISR": 0x90,
        "ACK": 0x98,
        "GENERATION": 0xA0,
        "LOG_BASE": 0xA8,
        "CONFIG": 0xC0,
    }
)
"""ERROR and ID lie where a DMA engine has them."""
IOAPIC_REGISTERS: Final = MappingProxyType({"IOREGSEL": 0xD0, "IOWIN": 0xE0})
TIMER_REGISTERS: Final = MappingProxyType(
    {"TIMER_PORT": 0x100, "TIMER_PERIOD": 0x108, "TIMER_DELAY": 0x110, "TIMER_EXPIRED": 0x118}
)
REGISTERS: Final = MappingProxyType({**DEVICE_REGISTERS, **VIRTIO_REGISTERS, **IOAPIC_REGISTERS, **TIMER_REGISTERS})

SIZE: Final = _kind("size", 1, SIZES)
WORD: Final = _kind(
    "word",
    8,
    (0, 1, 2, 3, 8, 0xFF, 0x1000, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1),
    consumes=ANY_RESOURCE,
)
LEVEL: Final = _kind("level", 1, (1, 2, 3, 4))
ENTRY: Final = _kind("entry", 8)
LEAF: Final = _kind(
    "leaf",
    4,
    (0, 1, 7, 0xB, 0xC, CPUID_SIGNATURE, CPUID_VERSION, 0x4000_00FF, 0x8000_0000, 0x8000_0001, 0x8000_0008),
)
SUBLEAF: Final = _kind("subleaf", 4, (0, 1, 2, 0xFF, 0xFFFF_FFFF))
FIFO_EDGES: Final = (FIFO_PORT + 2, FIFO_PORT + 4, FIFO_PORT + 5, FIFO_PORT + 7)
IO_PORT: Final = _kind(
    "io_port",
    2,
    (*range(UART_PORT, UART_PORT + UART_PORTS), *FIFO_EDGES, FIFO_PORT - 1, 0x60, 0x80, 0xCF8, 0xFFFF),
)
LIMIT: Final = _kind("limit", 2, (0, 0x67, 0xDF, 0xFF, 0xFFF, 0xFFFF))
VECTOR: Final = _kind("vector", 1, (0, 3, 4, 6, 8, 13, 14, 0x20, 0x80, 0xFF))
TIMES: Final = _kind("times", 2, (0, 1, 2, 16, 63, 64, 65, 255))
"""Elements of a string. An op with more than TIMES_MAX has that many."""
TIMES_MAX: Final = 512
CONTROL: Final = _kind("control", 1, (0, 3, 4, 8), names=CONTROL_REGISTERS)
CONTROL_VALUE: Final = _kind(
    "control_value",
    8,
    # Paging on with and without WP; tables of CR3, with and without a PCID and a flush; PAE, PGE, PCIDE, SMEP, SMAP; a
    # reserved bit.
    (
        *(0x8001_0033, 0x8000_0033, 0x33, 0),
        *(0x1000, 0x2000, 0x1001, 1 << 63 | 0x1000, 1 << 63 | 0x1001),
        *(0x20, 0xA0, 0x2_00A0, 0x30_00A0, 1 << 63, (1 << 64) - 1),
    ),
)
MSR: Final = _kind("msr", 4, (*MSRS.values(), 0x8FF, 0x900, 0x1000), names=MSRS)
FETCHING: Final = ("mmio_write",)
"""Instructions for which the hypervisor may read guest memory: a write that is queued finds its ring there."""
MODELS: Final = MappingProxyType({"IOAPIC": IOAPIC, "TIMER": TIMER, "COALESCED": COALESCED})
DEVICE: Final = _kind("device", 1, (0, 1, 2, 3, 4, *MODELS.values(), 0xFF), names=MODELS)
REGISTER: Final = _kind("register", 2, (*REGISTERS.values(), 0x04, 0x38, 0xFF8, 0xFFF), names=REGISTERS)
INVALIDATION: Final = _kind("invalidation", 1, (0, 1, 2, 3, 4))
PCID: Final = _kind("pcid", 8, (0, 1, 2, 0xFFF, 0x1000))
CAPACITY: Final = _kind("capacity", 1, (0, 1, 2, 4, 16, 64))


class _Instruction(NamedTuple):
    name: str
    family: str
    doc: str
    fields: dict[str, Kind]


def _instructions(numbers: Kind) -> tuple[_Instruction, ...]:
    """In the order of their opcodes: new ones are appended. `numbers` are the numbers of calls."""
    words = _kind("words", 8, element=WORD)

    def instruction(name: str, family: str, doc: str, **fields: Kind) -> _Instruction:
        return _Instruction(name, family, doc, fields)

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


@lru_cache(maxsize=8)
def catalogue(abi: Abi) -> Catalogue:
    """The kinds of ops over `abi`: the same object for the same ABI, so that programs over it compare."""
    kinds = []
    for call in abi.calls:
        if not 0 <= call.number < INSTRUCTION_CODES:
            raise ValueError(f"{call.name}: its number {call.number:#x} is no opcode byte of a hypercall")
        kinds.append(
            OpKind(
                name=call.name,
                code=call.number,
                family=call.name.partition(".")[0],
                fields=tuple(call.fields),
                produces=call.produces,
                number=call.number,
                declaration=call,
                doc=call.doc,
                fetches=True,
            )
        )
    numbers = _kind(
        "call_number",
        8,
        (*(call.number for call in abi.calls), 0, 0x7F, 0xFFFF_FFFF, (1 << 64) - 1),
        names=MappingProxyType({call.name: call.number for call in abi.calls}),
    )
    for offset, (name, family, doc, fields) in enumerate(_instructions(numbers)):
        kinds.append(
            OpKind(
                name=name,
                code=INSTRUCTION_CODES + offset,
                family=family,
                fields=tuple(Field(name=each, kind=kind) for each, kind in fields.items()),
                produces=None,
                number=None,
                declaration=None,
                doc=doc,
                fetches=family == "raw" or name in FETCHING,
            )
        )
    return Catalogue(sorted(kinds, key=lambda kind: kind.code))
