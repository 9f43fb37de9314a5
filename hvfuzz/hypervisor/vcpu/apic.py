"""The local APIC of each vCPU, in x2APIC mode only: registers as MSRs, and interrupts from one vCPU to another.

(SDM Vol. 3A, 11.12.) The registers are bytes of a heap page, one word in each 16 bytes, in the places that they have
in the APIC page of a processor. MSR 0x800 + n is register n; most of the range has no register, and the page ends
long before the range does: reads beyond it were XSA-108.

Fixed interrupts are all that is sent. SMI, NMI, INIT and start-up are accepted and lost: a guest's vCPUs all run.
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
# Reserved for the guest: the hypervisor's own.
ERRORS = 0x29
"""Errors since the last write of ESR, which shows them."""
STARTED = 0x3A
"""When the timer's count began: rounded cycles."""

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
"""The bits that are not reserved, of registers that can be written."""
LVT_READ_ONLY = 0x5000
"""Delivery status and remote IRR: what is written there is ignored."""

VERSION_VALUE = 0x0005_0014
"""Version 0x14, six LVT entries."""
ENABLED = 1 << 8
MASKED = 1 << 16
SEND_ILLEGAL = 1 << 5
RECEIVE_ILLEGAL = 1 << 6
FIRST_LEGAL = 16
"""Vectors below are exceptions: no interrupt."""
FIXED = 0
LOGICAL = 1 << 11
BROADCAST = 0xFFFF_FFFF
SELF, ALL, OTHERS = 1, 2, 3
"""Destination shorthands."""


def power_up(hv: ApicPages, vcpu: VCpu) -> int:
    """Give `vcpu` an APIC as it is after a reset; the host physical address of its registers."""
    page = hv.allocator.alloc_heap_page()
    if page < 0:
        raise HostBug("no page for an APIC")
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
    """A register of the APIC of `vcpu`, as it is stored."""
    return hv.host.read64(hv.apics[vcpu.id] + STRIDE * register)


def put(hv: Apics, vcpu: VCpu, register: int, value: int) -> None:
    """Store a register."""
    hv.host.write64(hv.apics[vcpu.id] + STRIDE * register, value)


def readable(register: int) -> bool:
    """Whether RDMSR of a register succeeds: what must hold before it is looked for in the page."""
    return register in READ_ONLY or (register in WRITABLE and register not in WRITE_ONLY)


def writable(register: int, value: int) -> bool:
    """Whether WRMSR of `value` to a register succeeds: there is one, and no reserved bit is set."""
    return register in WRITABLE and not value & ~WRITABLE[register]


def write(hv: Apics, vcpu: VCpu, register: int, value: int) -> None:
    """Write a register, other than those of the timer, with what follows from that."""
    if register == EOI:
        in_service = highest(hv, vcpu, ISR)
        if in_service >= 0:
            set_vector(hv, vcpu, ISR, in_service, False)
        return
    if register == SELF_IPI:
        send(hv, vcpu, value, [vcpu])
        return
    if register == ESR:
        value = get(hv, vcpu, ERRORS)
        put(hv, vcpu, ERRORS, 0)
    elif register in LVTS:
        value &= ~LVT_READ_ONLY
        if not get(hv, vcpu, SVR) & ENABLED:
            value |= MASKED
    put(hv, vcpu, register, value)
    if register == ICR and value >> 8 & 7 == FIXED:
        send(hv, vcpu, value & 0xFF, list(targets(hv, vcpu, value)))
    elif register == SVR and not value & ENABLED:
        for lvt in LVTS:
            put(hv, vcpu, lvt, get(hv, vcpu, lvt) | MASKED)


# Interrupts.


def targets(hv: Apics, vcpu: VCpu, command: int) -> Iterator[VCpu]:
    """The vCPUs that an interrupt command of `vcpu` is for: some of its domain's."""
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
    """Send a fixed interrupt."""
    if vector < FIRST_LEGAL:
        fail(hv, sender, SEND_ILLEGAL)
        return
    for receiver in receivers:
        accept(hv, receiver, vector)


def fail(hv: Apics, vcpu: VCpu, error: int) -> None:
    """Note an error of the APIC, and interrupt for it if the guest wants that."""
    put(hv, vcpu, ERRORS, get(hv, vcpu, ERRORS) | error)
    lvt = get(hv, vcpu, LVT_ERROR)
    if not lvt & MASKED and lvt & 0xFF >= FIRST_LEGAL:
        accept(hv, vcpu, lvt & 0xFF)


def accept(hv: Apics, vcpu: VCpu, vector: int) -> None:
    """An interrupt comes in: it is pending from now on, and ends a HLT if it can be taken."""
    if not get(hv, vcpu, SVR) & ENABLED:
        return
    if vector < FIRST_LEGAL:
        fail(hv, vcpu, RECEIVE_ILLEGAL)
        return
    set_vector(hv, vcpu, IRR, vector, True)
    if vcpu.runnable == RunState.HALTED and pending(hv, vcpu) >= 0:
        hv.scheduler.wake(vcpu)


def pending(hv: Apics, vcpu: VCpu) -> int:
    """The vector of the interrupt that `vcpu` would take now; -1 if there is none, or it is held back."""
    flags = vcpu.vmcs.saved[RFLAGS] if vcpu.in_root else vcpu.regs[RFLAGS]
    if not flags & RFLAGS_IF or not get(hv, vcpu, SVR) & ENABLED:
        return -1
    vector = highest(hv, vcpu, IRR)
    return vector if vector >> 4 > priority(hv, vcpu) >> 4 else -1


def priority(hv: Apics, vcpu: VCpu) -> int:
    """The processor priority: the higher of the task's and that of what is in service (SDM Vol. 3A, 11.8.3.1)."""
    task = get(hv, vcpu, TPR)
    in_service = max(highest(hv, vcpu, ISR), 0)
    return task if task >> 4 >= in_service >> 4 else in_service & 0xF0


def highest(hv: Apics, vcpu: VCpu, first: int) -> int:
    """The highest vector in one of ISR, TMR and IRR; -1 if there is none."""
    for number in range(7, -1, -1):
        word = get(hv, vcpu, first + number)
        if word:
            return 32 * number + word.bit_length() - 1
    return -1


def set_vector(hv: Apics, vcpu: VCpu, first: int, vector: int, there: bool) -> None:
    """Set or clear a vector in one of ISR, TMR and IRR."""
    register, bit = first + (vector >> 5), 1 << (vector & 31)
    word = get(hv, vcpu, register)
    put(hv, vcpu, register, word | bit if there else word & ~bit)
