"""The I/O permission bit map of the TSS (SDM Vol. 1, 19.5.2), which counts in a ring above IOPL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

RAM: Final = 4 << 20
TSS: Final = 0x5F00
"""The map begins in the next page."""
MAP: Final = 0x100
KERNEL: Final = paging.P | paging.RW | paging.A | paging.D
BUFFER: Final = 0x40_0000


@pytest.fixture
def vcpu(guest: Guest) -> VCpu:
    """A vCPU in ring 3 with a TSS whose map allows no port; an exit for port I/O reads as 0."""
    guest.map(0x5000, 0x8000, KERNEL)
    guest.map(0x6000, 0xA000, KERNEL)
    guest.map(BUFFER, 0xC000, KERNEL | paging.US)
    vcpu = guest.vcpu
    vcpu.tr = (TSS, MAP + 0x2000)
    guest.memory.write(RAM + 0x8F66, MAP.to_bytes(2, "little"))
    guest.memory.write(RAM + 0xA000, b"\xff" * 0x1000)
    vcpu.cpl, vcpu.regs[Reg.RFLAGS] = 3, 2

    def handle(vcpu: VCpu) -> None:
        vcpu.vmcs.saved[Reg.RAX] = vcpu.vmcs.saved[Reg.RCX] = 0

    guest.machine.exit_handler = handle
    return vcpu


ACCESSES: Final[list[Callable[[VCpu, int, int], object]]] = [
    lambda vcpu, port, size: vcpu.inp(port, size),
    lambda vcpu, port, size: vcpu.out(port, size, 0),
    lambda vcpu, port, size: vcpu.ins(port, size, BUFFER, 1),
    lambda vcpu, port, size: vcpu.outs(port, size, BUFFER, 1),
]


def allowed(vcpu: VCpu, access: Callable[[VCpu, int, int], object], port: int, size: int = 1) -> bool:
    """Whether the access is made; otherwise it is #GP(0)."""
    try:
        access(vcpu, port, size)
    except GuestFault as fault:
        refused = fault
    else:
        return True
    assert (refused.vector, refused.error) == (Vector.GP, 0)
    return False


def let(guest: Guest, *ports: int) -> None:
    """Clear the bits of `ports`."""
    for port in ports:
        at = RAM + 0xA000 + port // 8
        guest.memory.store(at, 1, guest.memory.load(at, 1) & ~(1 << port % 8))


@pytest.mark.parametrize("access", ACCESSES)
def test_a_bit_of_the_map_allows_its_port(guest: Guest, vcpu: VCpu, access: Callable[[VCpu, int, int], object]) -> None:
    assert not allowed(vcpu, access, 0x3F8)
    let(guest, 0x3F8)
    assert allowed(vcpu, access, 0x3F8)
    assert not allowed(vcpu, access, 0x3F7)
    assert not allowed(vcpu, access, 0x3F9)


def test_every_port_of_an_access_counts(guest: Guest, vcpu: VCpu) -> None:
    let(guest, 0x77, 0x78, 0x79)
    assert allowed(vcpu, VCpu.inp, 0x77, 2)
    assert not allowed(vcpu, VCpu.inp, 0x77, 4)
    let(guest, 0x7A)
    assert allowed(vcpu, VCpu.inp, 0x77, 4)


@pytest.mark.parametrize(
    ("limit", "port", "possible"),
    [
        (MAP + 0x2000, 0xFFFF, True),
        (MAP + 0x1FFF, 0xFFFF, False),
        (MAP + 0x1FFF, 0xFFF7, True),
        (MAP + 1, 7, True),
        (MAP, 0, False),
        (0x67, 0, False),
        (0x66, 0, False),
        (0, 0, False),
    ],
)
def test_both_bytes_lie_within_the_limit(guest: Guest, vcpu: VCpu, limit: int, port: int, possible: bool) -> None:
    guest.map(0x7000, 0xD000, KERNEL)
    guest.map(0x8000, 0xE000, KERNEL)
    guest.memory.write(RAM + 0xA000, bytes(0x1000))
    vcpu.tr = (TSS, limit)
    assert allowed(vcpu, VCpu.inp, port) is possible


def test_the_privilege_of_the_ring_needs_no_map(vcpu: VCpu) -> None:
    vcpu.tr = (0, 0)
    vcpu.regs[Reg.RFLAGS] = 2 | 3 << 12
    assert allowed(vcpu, VCpu.inp, 0x3F8)
    vcpu.cpl, vcpu.regs[Reg.RFLAGS] = 0, 2
    assert allowed(vcpu, VCpu.inp, 0x3F8)


def test_the_map_is_read_as_the_processors_own(guest: Guest, vcpu: VCpu) -> None:
    """By supervisor-mode accesses, which fault and exit as any other, before the exit of the instruction."""
    guest.map(0x6000, 0xA000, KERNEL & ~paging.P)
    guest.flush()
    with pytest.raises(GuestFault) as raised:
        vcpu.inp(0x3F8, 1)
    assert (raised.value.vector, raised.value.error, vcpu.cr2) == (Vector.PF, 0, 0x6000 + 0x3F8 // 8)
    guest.map(0x6000, 0xA000, KERNEL)
    guest.memory.store64(guest.ept_leaf(0x8000), 0)
    guest.flush()
    seen: list[tuple[ExitReason, int]] = []

    def handle(vcpu: VCpu) -> None:
        seen.append((vcpu.vmcs.reason, vcpu.vmcs.width))
        vcpu.pending_fault = GuestFault(Vector.GP)

    guest.machine.exit_handler = handle
    assert not allowed(vcpu, VCpu.inp, 0x3F8)
    guest.machine.exit_handler = lambda vcpu: setattr(vcpu, "runnable", RunState.STOPPED)
    vcpu.inp(0x3F8, 1)
    assert vcpu.vmcs.reason is ExitReason.EPT_VIOLATION
    assert seen == [(ExitReason.EPT_VIOLATION, 0)]


def test_a_string_looks_again_after_each_exit(guest: Guest, vcpu: VCpu) -> None:
    let(guest, 0x3F8)

    def handle(vcpu: VCpu) -> None:
        vcpu.vmcs.saved[Reg.RCX] -= 1
        guest.memory.write(RAM + 0xA000, b"\xff" * 0x1000)

    guest.machine.exit_handler = handle
    assert not allowed(vcpu, lambda vcpu, port, size: vcpu.outs(port, size, BUFFER, 3), 0x3F8)
    assert vcpu.regs[Reg.RCX] == 2
    let(guest, 0x3F8)
    assert allowed(vcpu, lambda vcpu, port, size: vcpu.outs(port, size, BUFFER, 1), 0x3F8)
