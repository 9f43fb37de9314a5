"""Checks one exit of INS or OUTS: number of elements, addresses, data, and privileges.

Helper of the oracle `exits`; reports nothing itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvfuzz.abi.limits import STRING_BURST
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, READ, SIZE_MASK, U64, WRITE
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import RCX, RDI, RFLAGS, RSI, Saved
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.paging import CR3_PCID, CR4_PCIDE, RFLAGS_DF
from hvfuzz.oracles.scene.excuses import STRING_CACHED, STRING_LET_THROUGH
from hvfuzz.oracles.shadow.guest_walk import Refusal, arrivals, pages_of, refusal

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.mmu.paging_cache import CombinedTable, CombinedTableKey
    from hvfuzz.machine.mmu.tlb import CombinedEntry, CombinedKey, Tlb
    from hvfuzz.oracles.exits.models.second_model import SecondModel
    from hvfuzz.oracles.scene.scene import Scene

CR2: Final = int(Saved.CR2)


def judge(scene: Scene, vcpu: VCpu, device: SecondModel | None, port: int, expected: list[Any]) -> str:
    """Check the exit; returns a message, empty if it is correct.

    `device` is the second model at the port, or None; this applies the transfer to it. `expected` holds the registers
    at the exit; this changes them to those with which the guest should resume.
    """
    calls = scene.calls
    fields = calls.exit
    calls.guest_written()
    width = fields.width
    register = RSI if fields.write else RDI
    step = -width if expected[RFLAGS] & RFLAGS_DF else width
    start = expected[register]
    most = min(expected[RCX], STRING_BURST)
    done: int = expected[RCX] - vcpu.vmcs.saved[RCX]
    if not 0 <= done <= most:
        return f"{done} elements moved of {most}"
    expected[RCX] -= done
    expected[register] = start + step * done & U64
    places = [start + step * number + byte & U64 for number in range(done) for byte in range(width)]
    copies, others = (calls.idle.reads, calls.idle.writes) if fields.write else (calls.idle.writes, calls.idle.reads)
    found = [(gva + at & U64, byte) for gva, data in copies for at, byte in enumerate(data)]
    data = bytes(byte for _, byte in found)
    if others or [place for place, _ in found] != places:
        return f"{len(found)} bytes copied for {done} elements from {start:#x} on, with wrong addresses or direction"
    for at in range(0, len(data), width):
        element = int.from_bytes(data[at : at + width], "little")
        if fields.write and device is not None:
            device.port_write(port, width, element)
        elif not fields.write and element != (
            device.port_read(port, width) if device is not None else SIZE_MASK[width]
        ):
            return f"element {at // width} is {element:#x}, not the value of the port"
    here = start + step * done & U64
    # The exit ends with the exception: nothing has changed the tables since.
    refused: tuple[Refusal, int] | None = None
    fault = vcpu.pending_fault
    if fault is not None:
        access, let_through = READ if fields.write else WRITE, partial(scene.excused, STRING_LET_THROUGH)
        refused = refusal(scene.machine, vcpu, here, width, access, pages_of(vcpu), let_through)
    if refused is not None and refused[0].vector == Vector.PF:
        expected[CR2] = refused[1]  # VM entry does not load CR2 (SDM Vol. 3C, 27.6.1.1).
    return _judge_end(fault, refused, here, done == most)


def _judge_end(fault: GuestFault | None, refused: tuple[Refusal, int] | None, gva: int, complete: bool) -> str:
    """Check that the transfer ended at the count, the burst limit, or the right exception; returns a message, or "".

    `refused` is what the element at `gva` raises, which is the next one.
    """
    if fault is None:
        return "" if complete else "ends before the count and the burst limit, without an exception"
    if complete:
        return f"injects {fault} after the last element"
    if refused is None:
        return f"injects {fault} at {gva:#x}, which the guest can access"
    (vector, error), address = refused
    right = GuestFault(vector, error, address)
    if (fault.vector, fault.error) != (vector, error) or (vector == Vector.PF and fault.address != address):
        return f"injects {fault}; the access to {gva:#x} is {right}"
    return ""


class Cached(NamedTuple):
    """Copies of the TLB and of the paging-structure cache."""

    pages: dict[CombinedKey, CombinedEntry]
    tables: dict[CombinedTableKey, CombinedTable]


def cached(tlb: Tlb) -> Cached:
    """What is cached now."""
    return Cached(tlb.combined.copy(), tlb.structures.combined.copy())


def wrong_page(scene: Scene, vcpu: VCpu, gva: int, hpa: int, before: Cached) -> bool:
    """Whether the instruction of `vcpu` may not access the page at `hpa` through `gva`, at the time of the copy.

    The copy of a part of the element follows the translation. Later, its bytes may have changed the tables. `before` is
    what was cached before the element was looked up: its second page may have evicted what led to the first one.
    """
    pages, machine, tlb = pages_of(vcpu), scene.machine, scene.machine.tlb
    access = READ if scene.calls.exit.write else WRITE
    if hpa in arrivals(machine, vcpu, gva, access, pages=pages):
        return False
    key = (vcpu.vpid, vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0, vcpu.eptp & EP4TA, gva >> PAGE_SHIFT)
    led = hpa in arrivals(machine, vcpu, gva, access, pages=pages, tables=before.tables)
    for entry in (tlb.combined.get(key), before.pages.get(key)):
        if entry is not None and entry[0] | gva & PAGE_MASK == hpa and entry[1] & access and pages in (None, entry[2]):
            led = True
    if led:
        scene.excused(STRING_CACHED)
    return not led
