"""Checks one exit of INS or OUTS: number of elements, addresses, data, and privileges.

Helper of the oracle `exits`; reports nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import STRING_BURST
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, SIZE_MASK, U64, WRITE
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.registers import RCX, RDI, RFLAGS, RSI, Saved
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.paging import CR3_PCID, CR4_PCIDE, CR4_SMAP, RFLAGS_DF
from hvfuzz.oracles.shadow.guest_walk import leads

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine
    from hvfuzz.oracles.exits.models.second_model import SecondModel
    from hvfuzz.oracles.scene.call_stack import CallStack

CR2: Final = int(Saved.CR2)
FAULTS: Final = (Vector.GP, Vector.PF)


def judge(
    machine: Machine, calls: CallStack, vcpu: VCpu, device: SecondModel | None, port: int, expected: list[Any]
) -> str:
    """Check the exit; returns a message, empty if it is correct.

    `device` is the second model at the port, or None; this applies the transfer to it. `expected` holds the registers
    at the exit; this changes them to those with which the guest should resume.
    """
    vmcs = vcpu.vmcs
    if calls.copying is not None:
        calls.written()
    width = vmcs.width
    register = RSI if vmcs.write else RDI
    step = -width if expected[RFLAGS] & RFLAGS_DF else width
    start = expected[register]
    most = min(expected[RCX], STRING_BURST)
    done: int = expected[RCX] - vmcs.saved[RCX]
    if not 0 <= done <= most:
        return f"{done} elements moved of {most}"
    expected[RCX] -= done
    expected[register] = start + step * done & U64
    places = [start + step * number + byte & U64 for number in range(done) for byte in range(width)]
    copies, others = (calls.idle.reads, calls.idle.writes) if vmcs.write else (calls.idle.writes, calls.idle.reads)
    found = [(gva + at & U64, byte) for gva, data in copies for at, byte in enumerate(data)]
    data = bytes(byte for _, byte in found)
    if others or [place for place, _ in found] != places:
        return f"{len(found)} bytes copied for {done} elements from {start:#x} on, with wrong addresses or direction"
    for at in range(0, len(data), width):
        element = int.from_bytes(data[at : at + width], "little")
        if vmcs.write and device is not None:
            device.port_write(port, width, element)
        elif not vmcs.write and element != (device.port_read(port, width) if device is not None else SIZE_MASK[width]):
            return f"element {at // width} is {element:#x}, not the value of the port"
    if vcpu.cpl and any(not _for_user(machine, vcpu, gva) for gva in places):
        return f"ring {vcpu.cpl} of dom{vcpu.domain} accesses a supervisor page"
    here = start + step * done & U64
    fault = vcpu.pending_fault
    if fault is not None and fault.vector == Vector.PF:
        # VM entry does not load CR2 (SDM Vol. 3C, 27.6.1.1). An element that crosses a page faults at the first or
        # at the second one.
        second = (here | PAGE_MASK) + 1 & U64
        crosses = here & PAGE_MASK > PAGE_SIZE - width
        expected[CR2] = second if crosses and fault.address == second else here
    return _judge_end(machine, vcpu, here, done == most)


def _judge_end(machine: Machine, vcpu: VCpu, gva: int, complete: bool) -> str:
    """Check that the transfer ended at the count, the burst limit, or a real exception; returns a message, or ""."""
    fault = vcpu.pending_fault
    if fault is None:
        return "" if complete else "ends before the count and the burst limit, without an exception"
    if complete or fault.vector not in FAULTS:
        return f"injects {fault}"
    # Supervisor code without SMAP may access every page that its tables map.
    free = not vcpu.cpl and not vcpu.cr4 & CR4_SMAP
    access = READ if vcpu.vmcs.write else WRITE
    if free and leads(machine, vcpu, gva, vcpu.vmcs.width, access):
        return f"injects {fault} at {gva:#x}, which the guest can access"
    return ""


def _for_user(machine: Machine, vcpu: VCpu, gva: int) -> bool:
    """Whether the page of `gva` is a user page, by the cached translation that the transfer used."""
    pcid = vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0
    entry = machine.tlb.combined.get((vcpu.vpid, pcid, vcpu.eptp & EP4TA, gva >> PAGE_SHIFT))
    return entry is None or entry[2]
