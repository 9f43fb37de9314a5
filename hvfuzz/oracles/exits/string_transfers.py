"""Checks one exit of INS or OUTS: number of elements, addresses, data, and privileges.

Helper of the oracle `exits`; reports nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import STRING_BURST
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, SIZE_MASK, U64, WRITE
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.registers import RCX, RDI, RFLAGS, RSI
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.paging import CR3_PCID, CR4_PCIDE, RFLAGS_DF, PageFaultCode
from hvfuzz.oracles.shadow.guest_walk import arrivals, leads, pages_of

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine
    from hvfuzz.oracles.exits.models.second_model import SecondModel
    from hvfuzz.oracles.scene.call_stack import CallStack

FAULTS: Final = (Vector.GP, Vector.PF)


def judge(
    machine: Machine, calls: CallStack, vcpu: VCpu, device: SecondModel | None, port: int, expected: list[Any]
) -> str:
    """Check the exit; returns a message, empty if it is correct.

    `device` is the second model at the port, or None; this applies the transfer to it. `expected` holds the registers
    at the exit; this changes them to those with which the guest should resume.
    """
    vmcs = vcpu.vmcs
    calls.guest_written()
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
    return _judge_end(machine, vcpu, start + step * done & U64, done == most)


def _judge_end(machine: Machine, vcpu: VCpu, gva: int, complete: bool) -> str:
    """Check that the transfer ended at the count, the burst limit, or a real exception; returns a message, or ""."""
    fault = vcpu.pending_fault
    if fault is None:
        return "" if complete else "ends before the count and the burst limit, without an exception"
    if complete or fault.vector not in FAULTS:
        return f"injects {fault}"
    # The exit ends with the exception: nothing has changed the tables since.
    write, width = not vcpu.vmcs.write, vcpu.vmcs.width
    access, pages = WRITE if write else READ, pages_of(vcpu)
    if leads(machine, vcpu, gva, width, access, pages=pages):
        return f"injects {fault} at {gva:#x}, which the guest can access"
    if fault.vector == Vector.PF:
        first = min(width, PAGE_SIZE - (gva & PAGE_MASK))
        wrong = gva + first & U64 if leads(machine, vcpu, gva, first, access, pages=pages) else gva
        if fault.address != wrong:
            return f"injects {fault} with CR2 {fault.address:#x}; the access fails at {wrong:#x}"
        by = (PageFaultCode.W if write else 0) | (PageFaultCode.U if vcpu.cpl else 0)
        if fault.error & (PageFaultCode.W | PageFaultCode.U) != by:
            return f"injects {fault}: the error code names another access"
    return ""


def wrong_page(machine: Machine, vcpu: VCpu, gva: int, hpa: int) -> bool:
    """Whether the instruction of `vcpu` may not access the page at `hpa` through `gva`, at the time of the copy.

    The copy of a part of the element follows the translation at once. Later, its bytes may have changed the tables.
    """
    pages = pages_of(vcpu)
    if pages is None:
        return False
    access = READ if vcpu.vmcs.write else WRITE
    pcid = vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0
    entry = machine.tlb.combined.get((vcpu.vpid, pcid, vcpu.eptp & EP4TA, gva >> PAGE_SHIFT))
    if entry is not None and entry[0] | gva & PAGE_MASK == hpa and entry[1] & access:
        return entry[2] is not pages
    return hpa not in arrivals(machine, vcpu, gva, access, pages=pages)
