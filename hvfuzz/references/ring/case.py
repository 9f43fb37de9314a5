"""A case: one instruction of a guest, or one event that VM entry injects; and its outcome."""

from enum import Enum, IntEnum
from typing import Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu.msrs import PAT_AT_RESET
from hvfuzz.machine.cpu.processor_state import CR0_AT_START, EFER_AT_START, RFLAGS_FIXED
from hvfuzz.machine.cpu.segments import STAR_OF_FLAT_SEGMENTS
from hvfuzz.machine.mmu import paging
from hvfuzz.references.ring.memory_map import CR3, STACK_RSP0, TSS_SIZE, Page, gva_of

KERNEL_RIP: Final = gva_of(Page.KERNEL_CODE) + 0x100
USER_RIP: Final = gva_of(Page.USER_CODE, 0) + 0x100
KERNEL_RSP: Final = gva_of(Page.LOW_END) + 0x800
USER_RSP: Final = gva_of(Page.USER_STACK_END, 0) + 0x800


class Kind(Enum):
    """What the guest does: the bytes of the instruction. ARGUMENT stands for a byte that the case sets."""

    INT = "cd ARGUMENT"
    IRET = "48 cf"
    SYSCALL = "0f 05"
    SYSRET = "48 0f 07"
    SYSENTER = "0f 34"
    SYSEXIT = "48 0f 35"
    SWAPGS = "0f 01 f8"
    CLI = "fa"
    STI = "fb"
    MOV_CR = "0f 22 ARGUMENT"
    """From RAX; the argument is 0xC0 | number << 3."""
    READ_CR = "0f 20 ARGUMENT"
    MOV_CR8 = "44 0f 22 c0"
    INVLPG = "0f 01 3f"
    """Of [RDI], as all that follow."""
    INVPCID = "66 0f 38 82 07"
    LIDT = "0f 01 1f"
    LOAD = "48 8b 07"
    STORE = "48 89 07"
    RDMSR = "0f 32"
    WRMSR = "0f 30"
    IN8 = "ec"
    IN16 = "66 ed"
    IN32 = "ed"
    OUT8 = "ee"
    OUT16 = "66 ef"
    OUT32 = "ef"
    HLT = "f4"
    PAUSE = "f3 90"
    CPUID = "0f a2"
    RDTSC = "0f 31"
    RDTSCP = "0f 01 f9"
    VMCALL = "0f 01 c1"
    INJECT = ""
    """An exception that VM entry injects."""

    def code(self, argument: int) -> bytes:
        """The bytes of the instruction."""
        return bytes.fromhex(self.value.replace("ARGUMENT", f"{argument:02x}"))


class Intercept(IntEnum):
    """Execution controls that make an instruction exit: bits of `Case.intercepts`."""

    INVLPG = 0
    RDTSC = 1
    CR3 = 2
    CR0_CR4 = 3
    """The guest/host masks of CR0 and CR4 are all ones, and their shadows have the opposite of RAX."""
    MSR = 4
    """No MSR bitmap."""
    MSR_BITMAP = 5
    IO = 6
    HLT = 7
    PAUSE = 8


class Case(NamedTuple):
    """Registers and memory before one instruction; all other memory is that of `memory_map.IMAGE`."""

    what: str
    """What the case varies."""
    kind: Kind
    argument: int = 0
    """The byte in the code; of INJECT, the vector."""
    error: int = 0
    """Of INJECT: the error code."""
    intercepts: int = 0
    user: bool = False
    null_ss: bool = False
    """SS is null, as after a change from ring 3."""
    rip: int = KERNEL_RIP
    rsp: int = KERNEL_RSP
    rflags: int = RFLAGS_FIXED
    rax: int = 0x1111
    rcx: int = 0x2222
    rdx: int = 0x3333
    rdi: int = 0x5555
    r11: int = 0x6666
    cr0: int = CR0_AT_START
    cr2: int = 0x7777
    cr3: int = CR3
    cr4: int = paging.CR4_PAE
    efer: int = EFER_AT_START
    idt: int = gva_of(Page.IDT)
    idt_limit: int = PAGE_SIZE - 1
    tss: int = gva_of(Page.TSS)
    tss_limit: int = TSS_SIZE - 1
    sysenter_cs: int = 0x10
    sysenter_esp: int = STACK_RSP0
    sysenter_eip: int = KERNEL_RIP
    pat: int = PAT_AT_RESET
    fs_base: int = 0x8888
    gs_base: int = 0x9999
    star: int = STAR_OF_FLAT_SEGMENTS
    lstar: int = KERNEL_RIP + 0x200
    cstar: int = 0
    fmask: int = 0
    kernel_gs_base: int = 0xAAAA
    tsc_aux: int = 0xBBBB
    words: tuple[tuple[int, int], ...] = ()
    """(hpa, value) of the words that differ from the image, in ascending order."""

    def __str__(self) -> str:
        parts = [f"{self.what}: {self.kind.name.lower()}"]
        for name, value in self._asdict().items():
            if name in ("what", "kind", "words") or value == self._field_defaults[name]:
                continue
            parts.append(name if value is True else f"{name}={value:#x}")
        parts += [f"[{hpa:#x}]={value:#x}" for hpa, value in self.words]
        return " ".join(parts)

    @property
    def code(self) -> bytes:
        """The bytes of the instruction."""
        return self.kind.code(self.argument)


class State(NamedTuple):
    """What an instruction leaves in the registers; segment registers by their selectors."""

    rip: int
    rsp: int
    rflags: int
    cs: int
    ss: int
    cpl: int
    rax: int
    rcx: int
    rdx: int
    rdi: int
    r11: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    idt: int
    idt_limit: int
    tss: int
    tss_limit: int
    sysenter_cs: int
    sysenter_esp: int
    sysenter_eip: int
    pat: int
    fs_base: int
    gs_base: int
    star: int
    lstar: int
    cstar: int
    fmask: int
    kernel_gs_base: int
    tsc_aux: int


NO_STATE: Final = State(*[0] * len(State._fields))
"""Of a failed VM entry, which saves nothing."""
COMPLETED: Final = 0
"""`Outcome.exit` of an instruction that completed, or whose exception was delivered."""


class Outcome(NamedTuple):
    """The result of a case; fields that the manual leaves undefined for the exit are 0."""

    exit: int
    """Basic exit reason, with bit 31 set for a failed VM entry; or COMPLETED."""
    state: State
    memory: tuple[tuple[int, int], ...]
    """(hpa, value) of the words of the guest's pages that changed, then those of its entries, page by page."""
    qualification: int = 0
    gpa: int = 0
    gva: int = 0
    vectoring: int = 0
    """IDT-vectoring information."""
    vectoring_error: int = 0
    length: int = 0
    """VM-exit instruction length."""
