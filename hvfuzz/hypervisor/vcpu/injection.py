"""Exceptions that the hypervisor gives to a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.registers import RFLAGS, Saved
from hvfuzz.machine.mmu.paging import RFLAGS_RF

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.faults import GuestFault
    from hvfuzz.machine.cpu.vcpu import VCpu

CR2 = int(Saved.CR2)


def inject(vcpu: VCpu, fault: GuestFault) -> None:
    """Have the next VM entry inject `fault`.

    VM entry loads no CR2, and pushes RF as it is (SDM Vol. 3C, 27.6.1.1): here the address of a page fault goes to CR2,
    and RF is set, as in the frame of any fault (SDM Vol. 3A, 17.3.1.1).
    """
    vcpu.pending_fault = fault
    vcpu.vmcs.saved[RFLAGS] |= RFLAGS_RF
    if fault.vector == Vector.PF:
        vcpu.vmcs.saved[CR2] = fault.address
