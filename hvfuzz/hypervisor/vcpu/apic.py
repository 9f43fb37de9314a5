"""The local APIC of each vCPU, in x2APIC mode only: registers as MSRs, and interrupts between vCPUs.

(SDM Vol. 3A, 11.12.) The registers lie in a heap page, one word in each 16 bytes, at the offsets of a processor's
APIC page. MSR 0x800 + n is register n. Most of the MSR range has no register, and the page ends long before the range
does: Xen read beyond it (XSA-108).

Only fixed interrupts are delivered. SMI, NMI, INIT and start-up IPIs are accepted and ignored: all vCPUs run from boot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory.allocator import HEAP_HEADER
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import RFLAGS_IF

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.interfaces import ApicPages, Apics
    from hvfuzz.machine.cpu.vcpu import VCpu

FIRST_MSR = 0x800
MSRS = range(FIRST_MSR, 0xC00)
STRIDE = 16

ID = 0x02
VERSION = 0x03
TPR = 0x08
PPR = 0x0A
EOI = 0x0B
LDR = 0x0D
SVR = 0x0F
ISR = 0x10
TMR = 0x18
IRR = 0x20
ESR = 0x28
ICR = 0x30
LVT_TIMER = 0x32
LVT_THERMAL = 0x33
LVT_PERFORMANCE = 0x34
LVT_LINT0 = 0x35
LVT_LINT1 = 0x36
LVT_ERROR = 0x37
INITIAL_COUNT = 0x38
CURRENT_COUNT = 0x39
DIVIDE = 0x3E
SELF_IPI = 0x3F
# Internal state, at an offset that the architecture reserves; the guest cannot access it.
ERRORS = 0x29
"""Errors since the last write to ESR, which latches them (SDM Vol. 3A, 11.5.3)."""

LVTS = range(LVT_TIMER, LVT_ERROR + 1)
READ_ONLY = (ID, VERSION, PPR, LDR, *range(ISR, ESR), CURRENT_COUNT)
WRITE_ONLY = (EOI, SELF_IPI)
WRITABLE = {
    TPR: 0xFF,
    EOI: 0,
    SVR: 0x3FF,
    ESR: 0,
    ICR: 0xFFFF_FFFF_000C_CFFF,
    LVT_TIMER: 0x3_10FF,
    LVT_THERMAL: 0x1_17FF,
    LVT_PERFORMANCE: 0x1_17FF,
    LVT_LINT0: 0x1_F7FF,
    LVT_LINT1: 0x1_F7FF,
    LVT_ERROR: 0x1_10FF,
    INITIAL_COUNT: 0xFFFF_FFFF,
    DIVIDE: 0xB,
    SELF_IPI: 0xFF,
}
"""Writable register -> its bits that are not reserved (SDM Vol. 3A, 11.12.1.2 and 11.12.1.3)."""
LVT_READ_ONLY = 0x5000
"""Delivery status and remote IRR: writes are ignored (SDM Vol. 3A, 11.5.1)."""

VERSION_VALUE = 0x0005_0014
"""Version 0x14, six LVT entries (SDM Vol. 3A, 11.4.8)."""
ENABLED = 1 << 8
MASKED = 1 << 16
SEND_ILLEGAL = 1 << 5
RECEIVE_ILLEGAL = 1 << 6
FIRST_LEGAL = 16
"""Vectors 0 to 15 are illegal for interrupts (SDM Vol. 3A, 11.5.2)."""
FIXED = 0
LOGICAL = 1 << 11
BROADCAST = 0xFFFF_FFFF
SELF, ALL, OTHERS = 1, 2, 3
"""Destination shorthands (SDM Vol. 3A, 11.6.1)."""


def power_up(hv: ApicPages, vcpu: VCpu) -> int:
    """Create the APIC of `vcpu` in its reset state; returns the host physical address of its registers.

    (SDM Vol. 3A, 11.4.7.1; the logical ID in LDR follows from the ID, 11.12.10.2.)
    """
    page = hv.allocator.alloc_heap_page()
    if page < 0:
        raise HostBug("no free page for an APIC")
    base = (page << PAGE_SHIFT) + HEAP_HEADER
    number = vcpu.index
    for register, value in (
        (ID, number),
        (VERSION, VERSION_VALUE),
        (LDR, number >> 4 << 16 | 1 << (number & 15)),
        (SVR, 0xFF),
        *((lvt, MASKED) for lvt in LVTS),
    ):
        hv.host.write64(base + STRIDE * register, value)
    return base


def get(hv: Apics, vcpu: VCpu, register: int) -> int:
    """The stored value of a register of the APIC of `vcpu`."""
    return hv.host.read64(hv.apics[vcpu.id] + STRIDE * register)


def put(hv: Apics, vcpu: VCpu, register: int, value: int) -> None:
    """Store a register of the APIC of `vcpu`, without side effects."""
    hv.host.write64(hv.apics[vcpu.id] + STRIDE * register, value)


def readable(register: int) -> bool:
    """Whether RDMSR of a register succeeds (SDM Vol. 3A, 11.12.1.2). To be checked before `get` (XSA-108)."""
    return register in READ_ONLY or (register in WRITABLE and register not in WRITE_ONLY)


def writable(register: int, value: int) -> bool:
    """Whether WRMSR of `value` to a register succeeds: it exists, no reserved bit is set (SDM Vol. 3A, 11.12.1.3)."""
    return register in WRITABLE and not value & ~WRITABLE[register]


def write(hv: Apics, vcpu: VCpu, register: int, value: int) -> None:
    """Write a register, other than those of the timer, with its side effects."""
    # SDM Vol. 3A, 11.8.5: EOI clears the highest bit in ISR.
    if register == EOI:
        in_service = highest(hv, vcpu, ISR)
        if in_service >= 0:
            set_vector(hv, vcpu, ISR, in_service, False)
        return
    # SDM Vol. 3A, 11.12.11: a fixed interrupt to the vCPU itself.
    if register == SELF_IPI:
        send(hv, vcpu, value, [vcpu])
        return
    # SDM Vol. 3A, 11.5.3: a write to ESR latches the errors since the last one.
    if register == ESR:
        value = get(hv, vcpu, ERRORS)
        put(hv, vcpu, ERRORS, 0)
    elif register in LVTS:
        value &= ~LVT_READ_ONLY
        # SDM Vol. 3A, 11.4.7.2: while the APIC is software-disabled, LVT mask bits cannot be cleared.
        if not get(hv, vcpu, SVR) & ENABLED:
            value |= MASKED
    put(hv, vcpu, register, value)
    if register == ICR and value >> 8 & 7 == FIXED:
        send(hv, vcpu, value & 0xFF, list(targets(hv, vcpu, value)))
    # SDM Vol. 3A, 11.4.7.2: software-disabling the APIC sets all LVT mask bits.
    elif register == SVR and not value & ENABLED:
        for lvt in LVTS:
            put(hv, vcpu, lvt, get(hv, vcpu, lvt) | MASKED)


# Interrupts.


def targets(hv: Apics, vcpu: VCpu, command: int) -> Iterator[VCpu]:
    """Yield the destinations of an interrupt command of `vcpu` (SDM Vol. 3A, 11.12.9 and 11.12.10).

    They are always vCPUs of its own domain: a guest must not interrupt another.
    """
    shorthand = command >> 18 & 3
    destination = command >> 32
    for other in hv.domains[vcpu.domain].vcpus:
        if shorthand:
            chosen = shorthand == ALL or (other is vcpu) == (shorthand == SELF)
        elif destination == BROADCAST:
            chosen = True
        elif command & LOGICAL:
            name = get(hv, other, LDR)
            chosen = name >> 16 == destination >> 16 and bool(name & destination & 0xFFFF)
        else:
            chosen = get(hv, other, ID) == destination
        if chosen:
            yield other


def send(hv: Apics, sender: VCpu, vector: int, receivers: list[VCpu]) -> None:
    """Send a fixed interrupt to each of `receivers`."""
    # SDM Vol. 3A, 11.5.2 and 11.5.3: "send illegal vector".
    if vector < FIRST_LEGAL:
        fail(hv, sender, SEND_ILLEGAL)
        return
    for receiver in receivers:
        accept(hv, receiver, vector)


def fail(hv: Apics, vcpu: VCpu, error: int) -> None:
    """Record an error of the APIC, and raise the error interrupt unless it is masked (SDM Vol. 3A, 11.5.3)."""
    put(hv, vcpu, ERRORS, get(hv, vcpu, ERRORS) | error)
    lvt = get(hv, vcpu, LVT_ERROR)
    if not lvt & MASKED and lvt & 0xFF >= FIRST_LEGAL:
        accept(hv, vcpu, lvt & 0xFF)


def accept(hv: Apics, vcpu: VCpu, vector: int) -> None:
    """Accept an interrupt: set it in IRR, and end a HLT if it is deliverable (SDM Vol. 3A, 11.8.4)."""
    # SDM Vol. 3A, 11.4.7.2: a software-disabled APIC accepts no fixed interrupt.
    if not get(hv, vcpu, SVR) & ENABLED:
        return
    # SDM Vol. 3A, 11.5.2 and 11.5.3: "receive illegal vector".
    if vector < FIRST_LEGAL:
        fail(hv, vcpu, RECEIVE_ILLEGAL)
        return
    set_vector(hv, vcpu, IRR, vector, True)
    if vcpu.runnable == RunState.HALTED and pending(hv, vcpu) >= 0:
        hv.scheduler.wake(vcpu)


def pending(hv: Apics, vcpu: VCpu) -> int:
    """Vector of the interrupt that `vcpu` would take now; -1 if none is pending, or IF, SVR or priority block it."""
    flags = vcpu.vmcs.saved[RFLAGS] if vcpu.in_root else vcpu.regs[RFLAGS]
    if not flags & RFLAGS_IF or not get(hv, vcpu, SVR) & ENABLED:
        return -1
    vector = highest(hv, vcpu, IRR)
    # SDM Vol. 3A, 11.8.3.1: only a priority class above that of the processor is delivered.
    return vector if vector >> 4 > priority(hv, vcpu) >> 4 else -1


def priority(hv: Apics, vcpu: VCpu) -> int:
    """Processor priority: the higher of TPR and the highest vector in service (SDM Vol. 3A, 11.8.3.1)."""
    task = get(hv, vcpu, TPR)
    in_service = max(highest(hv, vcpu, ISR), 0)
    return task if task >> 4 >= in_service >> 4 else in_service & 0xF0


def highest(hv: Apics, vcpu: VCpu, first: int) -> int:
    """Highest vector set in ISR, TMR or IRR (`first`); -1 if none is."""
    for number in range(7, -1, -1):
        word = get(hv, vcpu, first + number)
        if word:
            return 32 * number + word.bit_length() - 1
    return -1


def set_vector(hv: Apics, vcpu: VCpu, first: int, vector: int, there: bool) -> None:
    """Set (`there`) or clear a vector in ISR, TMR or IRR (`first`)."""
    register, bit = first + (vector >> 5), 1 << (vector & 31)
    word = get(hv, vcpu, register)
    put(hv, vcpu, register, word | bit if there else word & ~bit)
