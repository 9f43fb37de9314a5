"""IRET: checks of the frame, the state that it loads, and the accesses to the stack."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

import pytest

from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

FRAME = Struct("<5Q")
STACK = 0x5000
USER = 0x40_0000
PAGE = paging.P | paging.RW | paging.US | paging.A | paging.D
RAM = 4 << 20
IF, NT, IOPL, AC, RF = paging.RFLAGS_IF, paging.RFLAGS_NT, 3 << 12, paging.RFLAGS_AC, paging.RFLAGS_RF
TO_USER = (USER, 0x33, 2 | IF, 0x40_8000, 0x2B)
TO_KERNEL = (0xFFFF_8800_0000_9000, 0x10, 2, 0x6000, 0x18)


@pytest.fixture
def vcpu(guest: Guest) -> VCpu:
    """A vCPU in ring 0, whose stack is the first of two pages that ring 3 can access, too."""
    guest.map(STACK, 0x8000, PAGE)
    guest.map(STACK + 0x1000, 0xA000, PAGE)
    guest.vcpu.regs[Reg.RSP] = STACK
    guest.vcpu.regs[Reg.RFLAGS] = 2
    return guest.vcpu


def push(vcpu: VCpu, frame: tuple[int, ...]) -> None:
    """Store the frame at RSP."""
    for at, byte in enumerate(FRAME.pack(*frame)):
        gva = vcpu.regs[Reg.RSP] + at
        vcpu.memory.store(RAM + (0x8000 if gva < STACK + 0x1000 else 0xA000) + (gva & 0xFFF), 1, byte)


def state(vcpu: VCpu) -> tuple[int, ...]:
    """The state that IRET can change."""
    return vcpu.cpl, vcpu.regs[Reg.RIP], vcpu.regs[Reg.RSP], vcpu.regs[Reg.RFLAGS], vcpu.cs, vcpu.ss


def refused(vcpu: VCpu) -> tuple[int, int] | None:
    """(Vector, error code) of the exception that IRET raises, which must change nothing; or None."""
    before = state(vcpu)
    try:
        vcpu.iret()
    except GuestFault as fault:
        return (fault.vector, fault.error) if state(vcpu) == before else (-1, -1)
    return None


@pytest.mark.parametrize(("frame", "ring"), [(TO_USER, 3), (TO_KERNEL, 0)])
@pytest.mark.parametrize("rsp", [STACK, STACK + 0xFF0, STACK + 0xFFD])
def test_it_goes_on_as_the_frame_says(vcpu: VCpu, frame: tuple[int, ...], ring: int, rsp: int) -> None:
    vcpu.regs[Reg.RSP] = rsp
    vcpu.regs[Reg.RAX] = 77
    push(vcpu, frame)
    vcpu.iret()
    assert state(vcpu) == (ring, frame[0], frame[3], frame[2], frame[1], frame[4])
    assert vcpu.regs[Reg.RAX] == 77


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, 1 << 47, 0),
        (1, 0, 0),
        (1, 3, 0),
        (1, 0x23, 0x20),
        (1, 0x13, 0x10),
        (1, 0x30, 0x30),
        (4, 0, 0),
        (4, 0x18, 0x18),
        (4, 0x2A, 0x28),
        (4, 0x1B, 0x18),
    ],
)
def test_a_frame_that_is_wrong(vcpu: VCpu, place: int, value: int, error: int) -> None:
    push(vcpu, (*TO_USER[:place], value, *TO_USER[place + 1 :]))
    assert refused(vcpu) == (Vector.GP, error)


@pytest.mark.parametrize("null", range(4))
def test_a_kernel_may_do_without_a_stack_segment(vcpu: VCpu, null: int) -> None:
    push(vcpu, (*TO_KERNEL[:4], null))
    vcpu.iret()
    assert (vcpu.cpl, vcpu.ss) == (0, null)


def test_user_code_stays_in_its_ring(vcpu: VCpu) -> None:
    vcpu.cpl = 3
    push(vcpu, TO_KERNEL)
    assert refused(vcpu) == (Vector.GP, 0x10)
    push(vcpu, TO_USER)
    assert refused(vcpu) is None


@pytest.mark.parametrize(
    ("cpl", "before", "popped", "after"),
    [
        (0, 2, IF | IOPL, 2 | IF | IOPL),
        (3, 2, IF | IOPL, 2),
        (3, 2 | IOPL, IF, 2 | IF | IOPL),
        (3, 2 | IF, 0, 2 | IF),
        (0, 2, 1 << 17, 2),
        (0, 2, AC | NT, 2 | AC | NT),
        (0, 2, RF, 2 | RF),
        (3, 2 | RF, 0, 2),
        (0, 2 | AC, 0, 2),
    ],
)
def test_flags(vcpu: VCpu, cpl: int, before: int, popped: int, after: int) -> None:
    vcpu.cpl, vcpu.regs[Reg.RFLAGS] = cpl, before
    push(vcpu, (*TO_USER[:2], popped, *TO_USER[3:]))
    vcpu.iret()
    assert vcpu.regs[Reg.RFLAGS] == after


def test_a_nested_task_and_a_crooked_stack(vcpu: VCpu) -> None:
    push(vcpu, TO_USER)
    vcpu.regs[Reg.RFLAGS] |= NT
    assert refused(vcpu) == (Vector.GP, 0)
    vcpu.cpl, vcpu.cr0 = 3, vcpu.cr0 | paging.CR0_AM
    vcpu.regs[Reg.RFLAGS] = 2 | AC
    vcpu.regs[Reg.RSP] += 4
    assert refused(vcpu) == (Vector.AC, 0)


def test_a_stack_that_ends(vcpu: VCpu) -> None:
    vcpu.regs[Reg.RSP] = STACK + 0x1FF0
    assert refused(vcpu) == (Vector.PF, 0)
    assert vcpu.cr2 == STACK + 0x2000


@pytest.mark.parametrize("rsp", [1 << 47, (1 << 47) - 4, 0xFFFF_7FFF_FFFF_FFF0])
def test_a_stack_that_is_not_canonical(vcpu: VCpu, rsp: int) -> None:
    """#SS(0), of the word that is not: those before it are read first."""
    vcpu.regs[Reg.RSP] = rsp
    assert refused(vcpu) == (Vector.SS, 0)


def test_the_words_before_the_border_fault_first(guest: Guest, vcpu: VCpu) -> None:
    vcpu.regs[Reg.RSP] = (1 << 47) - 16
    assert refused(vcpu) == (Vector.PF, 0)
    guest.map((1 << 47) - 0x1000, 0x8000, PAGE)
    assert refused(vcpu) == (Vector.SS, 0)


def test_a_stack_pointer_that_is_loaded_may_be_anything(vcpu: VCpu) -> None:
    push(vcpu, (*TO_USER[:3], 1 << 47, TO_USER[4]))
    vcpu.iret()
    assert vcpu.regs[Reg.RSP] == 1 << 47


def test_an_exit_on_the_way_has_no_operand(guest: Guest, vcpu: VCpu) -> None:
    """Otherwise a handler would emulate it as a MOV."""
    seen: list[tuple[ExitReason, int]] = []

    def handle(vcpu: VCpu) -> None:
        seen.append((vcpu.vmcs.reason, vcpu.vmcs.width))
        vcpu.pending_fault = GuestFault(Vector.GP)

    guest.machine.exit_handler = handle
    guest.memory.store64(guest.ept_leaf(0x8000), 0)
    with pytest.raises(GuestFault) as raised:
        vcpu.iret()
    assert (raised.value.vector, raised.value.error) == (Vector.GP, 0)
    assert vcpu.regs[Reg.RFLAGS] == 2 | RF, "saved set by an EPT violation (SDM Vol. 3C, 28.3.3)"
    assert seen == [(ExitReason.EPT_VIOLATION, 0)]
