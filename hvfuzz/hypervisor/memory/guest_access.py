"""Guest memory access for hypercalls, split as in Xen into a range check and a raw copy.

    copy_from_guest  =  guest_range_ok  +  raw_copy_from_guest
    copy_to_guest    =  guest_range_ok  +  raw_copy_to_guest

The raw copies do not check the range. As in Xen PV, the hypervisor shares the address space of the guest that called
it, so an address in the hole *is* the hypervisor's mapping of all host memory. Callers of the raw copies must have
checked exactly the addresses they copy; Xen's `memory_exchange` did not (XSA-212).

A page that does not translate gives a value (None, False), not an exception: it is a frequent guest error.
Every read is a fetch: it is counted and logged, and the racing vCPU of a program may run just before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from hvfuzz.abi.boot import HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, WRITE
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault, Vector
from hvfuzz.machine.race_points import NO_TRIGGER

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.host import HostMemory
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine

Operand = list[tuple[int, int, int]]
"""(gva, hpa, bytes) of the part of an operand in each page."""
LOW_HALF_END = 1 << 47
"""First address above the lower canonical half (SDM Vol. 1, 3.3.7.1)."""


class GuestMemory(Protocol):
    """The state that access to guest memory needs: the machine's MMU, and the hypervisor's mapping of all memory."""

    @property
    def machine(self) -> Machine: ...

    @property
    def host(self) -> HostMemory: ...


def guest_range_ok(gva: int, size: int) -> bool:
    """Whether a guest may name these bytes: no wrap, all canonical, none in the hypervisor's hole.

    The hole starts at the upper canonical half, so one comparison covers both (SDM Vol. 1, 3.3.7.1).
    """
    if size == 0:
        return True
    last = gva + size - 1
    return last < LOW_HALF_END or HYPERVISOR_HOLE_END <= gva <= last <= U64


def copy_from_guest(hv: GuestMemory, vcpu: VCpu, gva: int, size: int) -> bytes | None:
    """Fetch `size` bytes at `gva` on behalf of `vcpu`; None if the range is refused or a page is not readable."""
    if not guest_range_ok(gva, size):
        return None
    return raw_copy_from_guest(hv, vcpu, gva, size)


def copy_to_guest(hv: GuestMemory, vcpu: VCpu, gva: int, data: bytes) -> bool:
    """Write `data` at `gva` on behalf of `vcpu`, all or nothing; False if the range is refused or not writable."""
    if not guest_range_ok(gva, len(data)):
        return False
    return raw_copy_to_guest(hv, vcpu, gva, data)


def writable(hv: GuestMemory, vcpu: VCpu, gva: int, size: int) -> bool:
    """Whether `copy_to_guest` of `size` bytes would succeed now; a `check` asks before its steps write a result."""
    return guest_range_ok(gva, size) and raw_writable(hv, vcpu, gva, size)


def raw_copy_from_guest(hv: GuestMemory, vcpu: VCpu, gva: int, size: int) -> bytes | None:
    """`copy_from_guest` of a range that the caller has checked; addresses wrap modulo 2^64."""
    if size == 0:
        return b""
    machine = hv.machine
    fetches = machine.fetches
    # `fetches.before()`, inlined for the case without a race: every hypercall fetches twice.
    if fetches.trigger == NO_TRIGGER:
        fetches.count += 1
    else:
        fetches.before()
    gva &= U64
    if (gva & PAGE_MASK) + size <= PAGE_SIZE and not HYPERVISOR_HOLE_START <= gva < HYPERVISOR_HOLE_END:
        # `_fetch_piece`, inlined: every struct comes through here.
        hpa = translate_for(hv, vcpu, gva, READ)
        if hpa is None:
            return None
        machine.clock.cycles += Cost.COPY_PER_64B * (size + 63 >> 6)
        fetches.log.append((vcpu.id, gva, hpa, size))
        hv.host.observer.guest_copy(vcpu, gva, hpa, size, False)
        return machine.memory.read(hpa, size)
    pieces = []
    for start, length in _pieces(gva, size):
        piece = _fetch_piece(hv, vcpu, start, length)
        if piece is None:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def raw_copy_to_guest(hv: GuestMemory, vcpu: VCpu, gva: int, data: bytes) -> bool:
    """`copy_to_guest` of a range that the caller has checked; addresses wrap modulo 2^64."""
    gva &= U64
    size = len(data)
    if (gva & PAGE_MASK) + size <= PAGE_SIZE:
        hpa = translate_for(hv, vcpu, gva, WRITE)
        if hpa is None:
            return False
        write_at(hv, vcpu, gva, hpa, data)
        return True
    # Translate every page before writing the first byte: a guest never sees half of a result.
    targets = []
    for start, length in _pieces(gva, size):
        hpa = translate_for(hv, vcpu, start, WRITE)
        if hpa is None:
            return False
        targets.append((start, hpa, length))
    done = 0
    for start, hpa, length in targets:
        write_at(hv, vcpu, start, hpa, data[done : done + length])
        done += length
    return True


def raw_writable(hv: GuestMemory, vcpu: VCpu, gva: int, size: int) -> bool:
    """Whether `raw_copy_to_guest` of `size` bytes would succeed now."""
    return all(translate_for(hv, vcpu, start, WRITE) is not None for start, _ in _pieces(gva & U64, size))


def translate_for(hv: GuestMemory, vcpu: VCpu, gva: int, access: int) -> int | None:
    """Host physical address of `gva`, translated with supervisor rights; None if stage 1 or stage 2 refuses.

    The fault is handled here and not delivered, so the vCPU keeps its CR2. An EPT misconfiguration propagates: the
    hypervisor wrote that table.
    """
    if HYPERVISOR_HOLE_START <= gva < HYPERVISOR_HOLE_END:
        return hv.host.direct(gva)
    translate = hv.machine.mmu.translate
    try:
        return translate(vcpu, gva, access, False, False)  # no SMAP
    except (GuestFault, EptViolation):
        pass
    # The fault may be spurious, from cached paging-structure entries. A fault drops these, so the second attempt uses
    # the guest's tables (SDM Vol. 3A, 4.10.4.1).
    try:
        return translate(vcpu, gva, access, False, False)
    except (GuestFault, EptViolation):
        return None


# Operands of an instruction that the hypervisor emulates.


def operand(hv: GuestMemory, vcpu: VCpu, gva: int, size: int, access: int) -> Operand | GuestFault:
    """Where the operand of the guest's own instruction lies, or the exception that the access raises.

    It is translated once, with the rights of the guest's ring. Who translates again, to copy, may come to another
    page: another vCPU may have changed the tables, and a copy with a supervisor's rights would follow them.
    """
    if not guest_range_ok(gva, size):
        return GuestFault(Vector.GP)
    pieces = []
    for start, length in _pieces(gva, size):
        hpa = translate_as_guest(hv, vcpu, start, access)
        if isinstance(hpa, GuestFault):
            return hpa
        pieces.append((start, hpa, length))
    return pieces


def translate_as_guest(hv: GuestMemory, vcpu: VCpu, gva: int, access: int) -> int | GuestFault:
    """Hpa of `gva` with the rights of the guest's ring, or the exception: #GP(0) where stage 2 refuses the access."""
    translate = hv.machine.mmu.translate
    user = vcpu.cpl != 0
    try:
        return translate(vcpu, gva, access, user)
    except (GuestFault, EptViolation):
        pass
    try:
        return translate(vcpu, gva, access, user)  # The fault may be spurious, see `translate_for`.
    except GuestFault as fault:
        return fault
    except EptViolation:
        return GuestFault(Vector.GP)


def fetch_operand(hv: GuestMemory, vcpu: VCpu, gva: int, size: int) -> bytes | GuestFault:
    """Fetch the operand of the guest's own instruction, or return the exception that its read raises."""
    hv.machine.fetches.before()
    pieces = operand(hv, vcpu, gva, size, READ)
    if isinstance(pieces, GuestFault):
        return pieces
    return b"".join([read_at(hv, vcpu, start, hpa, length) for start, hpa, length in pieces])


def write_operand(hv: GuestMemory, vcpu: VCpu, pieces: Operand, data: bytes) -> None:
    """Write `data` to an operand that `operand` has located for a write."""
    done = 0
    for start, hpa, length in pieces:
        write_at(hv, vcpu, start, hpa, data[done : done + length])
        done += length


def _fetch_piece(hv: GuestMemory, vcpu: VCpu, gva: int, size: int) -> bytes | None:
    """Translate, then read bytes that lie within one page."""
    hpa = translate_for(hv, vcpu, gva, READ)
    return None if hpa is None else read_at(hv, vcpu, gva, hpa, size)


def locate(hv: GuestMemory, vcpu: VCpu, gva: int, access: int) -> int | None:
    """Hpa of `gva` for several copies within its page, as `translate_for`; this is one fetch, which can be raced."""
    hv.machine.fetches.before()
    return translate_for(hv, vcpu, gva, access)


def read_at(hv: GuestMemory, vcpu: VCpu, gva: int, hpa: int, size: int) -> bytes:
    """Read bytes that lie within one page, which the caller has translated."""
    machine = hv.machine
    machine.clock.cycles += Cost.COPY_PER_64B * ((size + 63) >> 6)
    machine.fetches.log.append((vcpu.id, gva, hpa, size))
    hv.host.observer.guest_copy(vcpu, gva, hpa, size, False)
    if HYPERVISOR_HOLE_START <= gva < HYPERVISOR_HOLE_END:
        return hv.host.read(hpa, size)
    return machine.memory.read(hpa, size)


def write_at(hv: GuestMemory, vcpu: VCpu, gva: int, hpa: int, data: bytes) -> None:
    """Write bytes that lie within one page, which the caller has translated."""
    machine = hv.machine
    machine.clock.cycles += Cost.COPY_PER_64B * ((len(data) + 63) >> 6)
    hv.host.observer.guest_copy(vcpu, gva, hpa, len(data), True)
    if HYPERVISOR_HOLE_START <= gva < HYPERVISOR_HOLE_END:
        hv.host.write(hpa, data)
    else:
        machine.memory.write(hpa, data)
    hv.host.observer.guest_written()


def _pieces(gva: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (address, length) of the part of the range in each page."""
    while size:
        length = min(size, PAGE_SIZE - (gva & PAGE_MASK))
        yield gva, length
        gva = (gva + length) & U64
        size -= length
