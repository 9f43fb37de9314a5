"""What a VM exit leaves for the hypervisor: exit reasons, and the VMCS of a vCPU."""

from enum import IntEnum
from typing import Any, Final


class ExitReason(IntEnum):
    """Basic exit reasons (SDM Vol. 3D, appendix C)."""

    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    CPUID = 10
    HLT = 12
    INVLPG = 14
    RDTSC = 16
    VMCALL = 18
    CR_ACCESS = 28
    IO = 30
    RDMSR = 31
    WRMSR = 32
    INVALID_GUEST_STATE = 33
    """VM-entry failure: VM entry found guest state that it does not accept (SDM Vol. 3C, 27.8)."""
    PAUSE = 40
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    RDTSCP = 51
    INVPCID = 58


DEFAULT_INTERCEPTS: Final = 1 << ExitReason.HLT | 1 << ExitReason.IO
"""HLT and port I/O exit. CPUID, VMCALL, EPT violations and accesses to CR8 always exit. The rest run in the guest."""


# IDT-vectoring information, without the vector in bits 7..0 (SDM Vol. 3C, table 25-20).
VECTORING_EXCEPTION: Final = 1 << 31 | 3 << 8
VECTORING_SOFTWARE: Final = 1 << 31 | 4 << 8
VECTORING_ERROR: Final = 1 << 11
"""The event pushes an error code, which is in `Vmcs.vectoring_error`."""


class Vmcs:
    """The exit information and the guest state of one vCPU. The exit handler reads both and edits the state.

    `saved` is the guest state at the exit, indexed by Reg and Saved; VM entry loads it. The instruction fields hold
    what a decoder would find at RIP: an exit sets those that apply to its reason.
    """

    __slots__ = (
        "gpa",
        "gva",
        "intercepts",
        "leaf",
        "length",
        "msr_bitmap",
        "operand",
        "port",
        "qualification",
        "reason",
        "saved",
        "string",
        "tsc_offset",
        "vectoring",
        "vectoring_error",
        "width",
        "write",
    )

    def __init__(self) -> None:
        self.reason: ExitReason = ExitReason.EXTERNAL_INTERRUPT
        self.qualification: int = 0
        self.gpa: int = 0
        """EPT violation or misconfiguration: the Gpa that could not be translated."""
        self.gva: int = 0
        """EPT violation: the linear address that faulted, in the operand or at the start of its second page."""
        self.saved: list[Any] = []
        self.intercepts: int = DEFAULT_INTERCEPTS
        """Bit n set: the conditional exit with reason n is taken (SDM Vol. 3C, 25.6). INVLPG decides for INVPCID."""
        self.vectoring: int = 0
        """IDT-vectoring information: the event being delivered when the exit happened, or 0 (SDM Vol. 3C, 25.9.3)."""
        self.vectoring_error: int = 0
        """Error code of that event."""
        self.msr_bitmap: int = 0
        """Hpa of the MSR bitmap; 0: only `intercepts` decides which accesses to MSRs exit (SDM Vol. 3C, 25.6.9)."""
        self.tsc_offset: int = 0
        """Guest's time-stamp counter minus the host's, modulo 2^64 (SDM Vol. 3C, 25.6.5)."""
        self.length: int = 0
        """Bytes of the instruction: add it to the saved RIP to step over it."""
        self.width: int = 0
        """Bytes of the memory or port operand; 0 for a fetch."""
        self.operand: int = 0
        """Gva of the first byte of the memory operand, which may cross a page if it is not aligned to `width`."""
        self.write: bool = False
        """True for a store or OUT, whose value is in RAX. Otherwise the handler puts the result into RAX."""
        self.port: int = 0
        self.string: bool = False
        """Port I/O is REP INS or REP OUTS: RCX elements at RDI or RSI."""
        self.leaf: int = 0
        """CPUID leaf, or MSR index (ECX)."""
