"""Exceptions and INT through the guest's IDT: gates, stacks, frames, and faults during delivery."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from hvfuzz.machine.cpu.faults import GuestFault, Vector, combined
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

RAM: Final = 4 << 20
IDT, TSS, STACK, RSP0, IST1 = 0x1_0000, 0x1_1000, 0x1_2000, 0x1_3000, 0x1_4000
HANDLER: Final = 0xFFFF_8800_0000_9000
KERNEL: Final = paging.P | paging.RW | paging.A | paging.D
INTERRUPT, TRAP = 0x8E, 0x8F
IF, AC, NT, TF, RF = paging.RFLAGS_IF, paging.RFLAGS_AC, paging.RFLAGS_NT, 1 << 8, paging.RFLAGS_RF
UNMAPPED: Final = 0x7000


@pytest.fixture
def vcpu(guest: Guest) -> VCpu:
    """A vCPU in ring 0 with an IDT of 256 gates that are not present, a TSS, and stacks, all identity-mapped."""
    vcpu = guest.vcpu
    for page in range(IDT, IST1 + 0x1000, 0x1000):
        guest.map(page, page, KERNEL)
    guest.map(0x40_0000, 0x2_0000, KERNEL | paging.US)
    vcpu.regs[Reg.RSP], vcpu.regs[Reg.RIP], vcpu.regs[Reg.RFLAGS] = STACK + 0xF08, 0x1234, 2 | IF | AC | NT | TF
    vcpu.lidt(IDT, 0xFFF)
    vcpu.ltr(TSS, 0x67)
    put(vcpu, TSS + 4, RSP0 + 0xF00)
    put(vcpu, TSS + 0x24, IST1 + 0xF07)
    return vcpu


def put(vcpu: VCpu, gva: int, value: int) -> None:
    """Store a word that need not be aligned."""
    vcpu.memory.write(RAM + gva, value.to_bytes(8, "little"))


def gate(
    vcpu: VCpu, vector: int, kind: int = INTERRUPT, *, ist: int = 0, selector: int = 0x10, to: int = HANDLER
) -> None:
    """Write a gate."""
    low = to & 0xFFFF | selector << 16 | ist << 32 | kind << 40 | (to >> 16 & 0xFFFF) << 48
    put(vcpu, IDT + 16 * vector, low)
    put(vcpu, IDT + 16 * vector + 8, to >> 32)


def frame(vcpu: VCpu, words: int = 5) -> list[int]:
    """The words at RSP."""
    return [vcpu.memory.load(RAM + vcpu.regs[Reg.RSP] + 8 * at, 8) for at in range(words)]


def in_ring_3(vcpu: VCpu) -> None:
    """Put the vCPU into ring 3, with its segments."""
    vcpu.cpl, vcpu.cs, vcpu.ss = 3, 0x33, 0x2B


def raises(vcpu: VCpu, instruction: Callable[[], object]) -> int:
    """The vector of the exception that an instruction raises."""
    with pytest.raises(GuestFault) as raised:
        instruction()
    return raised.value.vector


def test_an_exception_enters_its_handler(vcpu: VCpu) -> None:
    gate(vcpu, 14)
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    regs = vcpu.regs
    assert (regs[Reg.RIP], regs[Reg.RSP], vcpu.cpl, vcpu.cr2) == (HANDLER, STACK + 0xF00 - 48, 0, UNMAPPED)
    assert regs[Reg.RFLAGS] == 2 | AC
    assert frame(vcpu, 6) == [0, 0x1234, 0x10, 2 | IF | AC | NT | TF | RF, STACK + 0xF08, 0x18]
    assert vcpu.vmcs.vectoring == 0


def test_a_trap_gate_leaves_interrupts_on(vcpu: VCpu) -> None:
    gate(vcpu, 6, TRAP)
    assert raises(vcpu, lambda: vcpu.mov_cr(5, 0)) == Vector.UD
    assert vcpu.regs[Reg.RFLAGS] == 2 | IF | AC
    assert frame(vcpu)[0] == 0x1234, "#UD has no error code"


@pytest.mark.parametrize(("ist", "stack"), [(0, RSP0 + 0xF00), (1, IST1 + 0xF00)])
def test_a_handler_of_user_code_has_a_stack_of_the_tss(vcpu: VCpu, ist: int, stack: int) -> None:
    gate(vcpu, 13, ist=ist)
    in_ring_3(vcpu)
    assert raises(vcpu, vcpu.hlt) == Vector.GP
    assert (vcpu.cpl, vcpu.regs[Reg.RSP]) == (0, stack - 48)
    assert frame(vcpu, 6)[2::3] == [0x33, 0x2B]
    assert (vcpu.cs, vcpu.ss) == (0x10, 0), "null, with the new CPL as its RPL (SDM Vol. 3A, 6.14.4)"
    gate(vcpu, 6)
    assert raises(vcpu, lambda: vcpu.mov_cr(5, 0)) == Vector.UD
    assert frame(vcpu, 5)[1::3] == [0x10, 0]


def test_iret_goes_back_to_where_int_came_from(vcpu: VCpu) -> None:
    gate(vcpu, 0x80, INTERRUPT | 3 << 5)
    in_ring_3(vcpu)
    vcpu.regs[Reg.RFLAGS] = 2 | IF
    vcpu.interrupt(0x80)
    assert vcpu.cpl == 0
    vcpu.iret()
    assert (vcpu.cpl, vcpu.regs[Reg.RIP], vcpu.regs[Reg.RSP]) == (3, 0x1236, STACK + 0xF08)
    assert (vcpu.cs, vcpu.ss) == (0x33, 0x2B)
    assert vcpu.regs[Reg.RFLAGS] == 2 | IF


def test_without_a_table_nothing_is_delivered(vcpu: VCpu) -> None:
    gate(vcpu, 14)
    vcpu.lidt(IDT, 0)
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    assert raises(vcpu, lambda: vcpu.interrupt(3)) == Vector.GP
    assert (vcpu.regs[Reg.RIP], vcpu.regs[Reg.RSP]) == (0x1234, STACK + 0xF08)


WRONG: Final = [
    ({"kind": 0}, Vector.GP, 0x80 << 3 | 2),
    ({"kind": 0x8C}, Vector.GP, 0x80 << 3 | 2),
    ({"kind": 0x9E}, Vector.GP, 0x80 << 3 | 2),
    ({"kind": INTERRUPT & 0x7F}, Vector.NP, 0x80 << 3 | 2),
    ({"selector": 0}, Vector.GP, 0),
    ({"selector": 0x33}, Vector.GP, 0x30),
    ({"to": 1 << 47}, Vector.GP, 0),
    ({"ist": 7, "limit": 0x5A}, Vector.TS, 0x40),
    ({"ist": 2, "stack": 1 << 47}, Vector.SS, 0),
    ({"ist": 2, "stack": 0}, Vector.PF, 2),
    # SDM Vol. 2A, INT n: the stack comes before the address of the handler, and that before the pushes.
    ({"ist": 7, "limit": 0x5A, "to": 1 << 47}, Vector.TS, 0x40),
    ({"ist": 2, "stack": 1 << 47, "to": 1 << 47}, Vector.SS, 0),
    ({"ist": 2, "stack": 0xFFFF_8000_0000_0020, "to": 1 << 47}, Vector.GP, 0),
    ({"ist": 2, "stack": 0, "to": 1 << 47}, Vector.GP, 0),
]


@pytest.mark.parametrize(("wrong", "vector", "error"), WRONG)
def test_a_gate_that_is_wrong(vcpu: VCpu, wrong: dict[str, int], vector: int, error: int) -> None:
    """The exception is delivered in turn, and its error code is on the stack."""
    wrong = dict(wrong)
    vcpu.ltr(TSS, wrong.pop("limit", 0x67))
    put(vcpu, TSS + 0x2C, wrong.pop("stack", 0x40))
    gate(vcpu, 0x80, **wrong)
    gate(vcpu, vector, to=HANDLER + 0x10)
    with pytest.raises(GuestFault) as raised:
        vcpu.interrupt(0x80)
    assert (raised.value.vector, raised.value.error) == (vector, error)
    assert vcpu.regs[Reg.RIP] == HANDLER + 0x10
    assert frame(vcpu, 2) == [error, 0x1234]


def test_user_code_calls_only_what_is_for_it(vcpu: VCpu) -> None:
    gate(vcpu, 0x80)
    gate(vcpu, 13)
    vcpu.cpl = 3
    assert raises(vcpu, lambda: vcpu.interrupt(0x80)) == Vector.GP
    assert frame(vcpu, 1) == [0x80 << 3 | 2]


def test_the_last_gate_ends_where_the_limit_says(vcpu: VCpu) -> None:
    gate(vcpu, 3)
    gate(vcpu, 13)
    vcpu.lidt(IDT, 13 * 16 + 15)
    vcpu.interrupt(3)
    assert raises(vcpu, lambda: vcpu.interrupt(14)) == Vector.GP
    vcpu.machine.exit_handler = lambda vcpu: setattr(vcpu, "runnable", RunState.STOPPED)
    vcpu.lidt(IDT, 13 * 16 + 14)
    assert raises(vcpu, lambda: vcpu.interrupt(14)) == Vector.GP
    assert vcpu.vmcs.reason == ExitReason.TRIPLE_FAULT


def test_a_double_fault_and_a_triple_fault(vcpu: VCpu) -> None:
    exits: list[ExitReason] = []
    vcpu.machine.exit_handler = lambda vcpu: exits.append(vcpu.vmcs.reason)
    gate(vcpu, 8)
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    assert (vcpu.regs[Reg.RIP], frame(vcpu, 1), exits) == (HANDLER, [0], [])
    gate(vcpu, 8, 0)
    vcpu.regs[Reg.RIP] = 0x1234
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    assert (vcpu.regs[Reg.RIP], exits) == (0x1234, [ExitReason.TRIPLE_FAULT])


def test_a_page_fault_on_the_way_replaces_the_address(vcpu: VCpu) -> None:
    gate(vcpu, 6)
    gate(vcpu, 14, ist=1)
    vcpu.regs[Reg.RSP] = UNMAPPED + 0x100
    assert raises(vcpu, lambda: vcpu.mov_cr(5, 0)) == Vector.UD
    assert (vcpu.regs[Reg.RIP], vcpu.cr2) == (HANDLER, UNMAPPED + 0x100 - 8), "SS is pushed first"
    assert frame(vcpu, 1) == [2]


def test_a_frame_over_a_page_border_is_pushed_from_the_top(guest: Guest, vcpu: VCpu) -> None:
    gate(vcpu, 3)
    gate(vcpu, 14, ist=1)
    before = guest.memory.read(RAM + STACK, 0x10)
    guest.memory.store64(guest.entry(TSS, 1), 0)
    guest.map(TSS, 0x3_0000, KERNEL)
    vcpu.ltr(TSS, 0x67)
    guest.memory.write(RAM + 0x3_0024, (IST1 + 0xF00).to_bytes(8, "little"))
    vcpu.regs[Reg.RSP] = STACK + 0x10
    vcpu.interrupt(3)
    assert vcpu.regs[Reg.RSP] == STACK + 0x10 - 40
    assert guest.memory.read(RAM + STACK, 0x10) == (STACK + 0x10).to_bytes(8, "little") + (0x18).to_bytes(8, "little")
    assert guest.memory.load64(RAM + 0x3_0FE8) == 0x1236
    guest.memory.write(RAM + STACK, before)
    guest.map(TSS, 0x3_0000, KERNEL & ~paging.RW)
    guest.flush()
    vcpu.regs[Reg.RSP], vcpu.regs[Reg.RIP] = STACK + 0x10, 0x1234
    assert raises(vcpu, lambda: vcpu.interrupt(3)) == Vector.PF
    assert vcpu.cr2 == TSS + 0xFF8, "of RFLAGS, after SS and RSP"
    assert guest.memory.read(RAM + STACK, 0x10) != before
    assert vcpu.regs[Reg.RIP] == HANDLER
    assert frame(vcpu, 2) == [3, 0x1234]


def test_the_first_push_that_fails_decides(guest: Guest, vcpu: VCpu) -> None:
    """The upper page violates stage 2 and the lower is not present, or the reverse."""
    exits: list[int] = []

    def handle(vcpu: VCpu) -> None:
        exits.append(vcpu.vmcs.gpa)
        vcpu.runnable = RunState.STOPPED

    guest.machine.exit_handler = handle
    gate(vcpu, 3)
    gate(vcpu, 14, ist=1)
    leaf = guest.memory.load64(guest.ept_leaf(STACK))
    entry = guest.memory.load64(guest.entry(TSS, 1))
    vcpu.ltr(0x3_0000, 0x67)
    guest.map(0x3_0000, 0x3_0000, KERNEL)
    guest.memory.write(RAM + 0x3_0024, (IST1 + 0xF00).to_bytes(8, "little"))
    for upper, lower in ((0, entry), (leaf, 0)):
        guest.memory.store64(guest.ept_leaf(STACK), upper)
        guest.memory.store64(guest.entry(TSS, 1), lower)
        guest.flush()
        vcpu.runnable = RunState.RUNNABLE
        vcpu.regs[Reg.RSP], vcpu.regs[Reg.RIP] = STACK + 0x10, 0x1234
        with suppress(GuestFault):
            vcpu.interrupt(3)
    assert (exits, vcpu.cr2, vcpu.regs[Reg.RIP]) == ([STACK + 8], TSS + 0xFF8, HANDLER)


@pytest.mark.parametrize("ist", [0, 1])
def test_a_gate_to_ring_3_delivers_in_ring_3(guest: Guest, vcpu: VCpu, ist: int) -> None:
    """Nothing changes but the code; the stack is switched if the gate names one, and written with the ring's rights."""
    gate(vcpu, 0x80, INTERRUPT | 3 << 5, selector=0x30, ist=ist)
    gate(vcpu, 14)
    in_ring_3(vcpu)
    page = IST1 if ist else STACK
    assert raises(vcpu, lambda: vcpu.interrupt(0x80)) == Vector.PF
    assert vcpu.cpl == 0
    assert frame(vcpu, 1) == [7], "a write by user code, of a page that is present"
    guest.map(page, page, KERNEL | paging.US)
    guest.flush()
    in_ring_3(vcpu)
    vcpu.regs[Reg.RSP], vcpu.regs[Reg.RIP] = STACK + 0xF08, 0x1234
    vcpu.interrupt(0x80)
    assert (vcpu.cpl, vcpu.cs, vcpu.ss, vcpu.regs[Reg.RIP]) == (3, 0x33, 0x2B, HANDLER)
    assert vcpu.regs[Reg.RSP] == page + 0xF00 - 40
    assert frame(vcpu)[1::2] == [0x33, STACK + 0xF08]
    vcpu.iret()
    assert (vcpu.cpl, vcpu.regs[Reg.RIP]) == (3, 0x1236)


def test_int_pushes_rf_clear(vcpu: VCpu) -> None:
    """SDM Vol. 3A, 17.3.1.1."""
    gate(vcpu, 3)
    vcpu.regs[Reg.RFLAGS] = 2 | RF
    vcpu.interrupt(3)
    assert frame(vcpu)[2] == 2


def test_delivery_ends_whatever_the_hypervisor_does(guest: Guest, vcpu: VCpu) -> None:
    """A hypervisor that injects #GP over and over, or that lets a vCPU go on after a triple fault."""
    exits: list[ExitReason] = []

    def handle(vcpu: VCpu) -> None:
        exits.append(vcpu.vmcs.reason)
        vcpu.pending_fault = GuestFault(Vector.GP)

    guest.machine.exit_handler = handle
    guest.memory.store64(guest.ept_leaf(IDT), 0)
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    assert exits[-1] == ExitReason.TRIPLE_FAULT
    guest.machine.exit_handler = lambda vcpu: exits.append(vcpu.vmcs.reason)
    vcpu.pending_fault = None
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    assert exits[-1] == ExitReason.TRIPLE_FAULT
    assert len(exits) < 150


@pytest.mark.parametrize("flag", [0, AC])
def test_tables_are_implicit_accesses_that_smap_holds_back(guest: Guest, vcpu: VCpu, flag: int) -> None:
    gate(vcpu, 3)
    guest.map(IDT, IDT, KERNEL | paging.US)
    guest.flush()
    vcpu.mov_cr(4, paging.CR4_PAE | paging.CR4_SMAP)
    vcpu.regs[Reg.RFLAGS] = 2 | flag
    vcpu.machine.exit_handler = lambda vcpu: None
    assert raises(vcpu, lambda: vcpu.interrupt(3)) == Vector.PF
    assert vcpu.regs[Reg.RFLAGS] == 2 | flag | RF


def test_an_exit_on_the_way_tells_what_was_delivered(guest: Guest, vcpu: VCpu) -> None:
    seen: list[tuple[ExitReason, int, int]] = []

    def handle(vcpu: VCpu) -> None:
        vmcs = vcpu.vmcs
        seen.append((vmcs.reason, vmcs.vectoring, vmcs.width))
        vcpu.pending_fault = GuestFault(Vector.DF) if len(seen) == 1 else None

    gate(vcpu, 14)
    gate(vcpu, 8, ist=1)
    guest.machine.exit_handler = handle
    guest.memory.store64(guest.ept_leaf(STACK), 0)
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    assert seen == [(ExitReason.EPT_VIOLATION, 1 << 31 | 1 << 11 | 3 << 8 | 14, 0)], "with an error code"
    assert vcpu.vmcs.vectoring_error == 0
    assert (vcpu.regs[Reg.RSP], frame(vcpu, 2)) == (IST1 + 0xF00 - 48, [0, 0x1234])
    vcpu.regs[Reg.RSP] = STACK + 0x100
    seen.append((ExitReason.VMCALL, 0, 0))
    gate(vcpu, 3)
    assert raises(vcpu, lambda: vcpu.interrupt(3)) == Vector.MC
    assert seen[2] == (ExitReason.EPT_VIOLATION, 1 << 31 | 4 << 8 | 3, 0)


def test_a_vcpu_that_is_stopped_on_the_way_is_not_in_its_handler(guest: Guest, vcpu: VCpu) -> None:
    gate(vcpu, 14)
    guest.machine.exit_handler = lambda vcpu: setattr(vcpu, "runnable", RunState.STOPPED)
    guest.memory.store64(guest.ept_leaf(STACK), 0)
    assert raises(vcpu, lambda: vcpu.load(UNMAPPED)) == Vector.PF
    assert vcpu.regs[Reg.RIP] == 0x1234
    gate(vcpu, 3)
    vcpu.interrupt(3)
    assert vcpu.regs[Reg.RIP] == 0x1234


def test_loading_tables_is_for_ring_0_and_canonical_addresses(vcpu: VCpu) -> None:
    vcpu.idtr = (0, 0)
    for load in (vcpu.lidt, vcpu.ltr):
        assert raises(vcpu, lambda load=load: load(1 << 47, 0)) == Vector.GP
        vcpu.cpl = 3
        assert raises(vcpu, lambda load=load: load(0, 0)) == Vector.GP
        vcpu.cpl = 0
    assert (vcpu.idtr, vcpu.tr) == ((0, 0), (TSS, 0x67))


@pytest.mark.parametrize(
    ("first", "second", "becomes"),
    [
        (Vector.UD, Vector.GP, Vector.GP),
        (Vector.UD, Vector.PF, Vector.PF),
        (Vector.GP, Vector.UD, Vector.UD),
        (Vector.GP, Vector.NP, Vector.DF),
        (Vector.GP, Vector.PF, Vector.PF),
        (Vector.PF, Vector.PF, Vector.DF),
        (Vector.PF, Vector.TS, Vector.DF),
        (Vector.PF, Vector.MC, Vector.MC),
        (Vector.DF, Vector.GP, None),
        (Vector.DF, Vector.PF, None),
        (Vector.DF, Vector.MC, Vector.MC),
    ],
)
def test_two_exceptions_become_one(first: int, second: int, becomes: int | None) -> None:
    after = combined(first, GuestFault(second))
    assert (None if after is None else after.vector) == becomes


def test_an_injected_exception_pushes_rf_as_it_is(vcpu: VCpu) -> None:
    """SDM Vol. 3C, 27.6.1.1. What the processor finds on the way pushes RF set."""
    vcpu.machine.exit_handler = lambda vcpu: setattr(vcpu, "pending_fault", GuestFault(Vector.GP))
    gate(vcpu, 13)
    vcpu.regs[Reg.RFLAGS] = 2
    assert raises(vcpu, vcpu.vmcall) == Vector.GP
    assert frame(vcpu, 4)[3] == 2
    gate(vcpu, 13, INTERRUPT & 0x7F)
    gate(vcpu, 8)
    assert raises(vcpu, vcpu.vmcall) == Vector.GP
    assert frame(vcpu, 4)[3] == 2 | RF
    gate(vcpu, 13)
    assert raises(vcpu, lambda: vcpu.load(1 << 47)) == Vector.GP
    assert frame(vcpu, 4)[3] == 2 | RF


def test_rf_that_an_exit_saves(guest: Guest, vcpu: VCpu) -> None:
    """SDM Vol. 3C, 28.3.3: clear for an instruction, set for an EPT violation, as in the frame during a delivery."""
    saved: list[bool] = []

    def handle(vcpu: VCpu) -> None:
        saved.append(bool(vcpu.vmcs.saved[Reg.RFLAGS] & RF))
        vcpu.runnable = RunState.STOPPED if vcpu.vmcs.vectoring else RunState.RUNNABLE
        vcpu.vmcs.saved[Reg.RIP] += 1

    guest.machine.exit_handler = handle
    vcpu.regs[Reg.RFLAGS] = 2 | RF
    vcpu.cpuid(0)
    guest.map(UNMAPPED, UNMAPPED, KERNEL)
    guest.memory.store64(guest.ept_leaf(UNMAPPED), 0)
    vcpu.load(UNMAPPED)
    assert saved == [False, True]
    gate(vcpu, 3)
    guest.memory.store64(guest.ept_leaf(IDT), 0)
    guest.flush()
    vcpu.interrupt(3)
    assert raises(vcpu, lambda: vcpu.load(1 << 47)) == Vector.GP
    assert saved == [False, True, False, True]


def test_a_push_at_an_address_that_is_not_canonical(guest: Guest, vcpu: VCpu) -> None:
    """Each push checks its own address: those above it are in memory, and an earlier one may fail otherwise."""
    high, page = 0xFFFF_8000_0000_0000, 0x1_5000
    leaf = guest.map(high, page, KERNEL)
    vcpu.regs[Reg.RSP] = high + 0x10
    gate(vcpu, 0x80, to=1 << 48)
    gate(vcpu, 12, ist=1)
    gate(vcpu, 13, ist=1)
    gate(vcpu, 14, ist=1)
    assert raises(vcpu, lambda: vcpu.interrupt(0x80)) == Vector.GP  # The handler's address comes before any push.
    vcpu.regs[Reg.RSP] = high + 0x10
    gate(vcpu, 0x80)
    assert raises(vcpu, lambda: vcpu.interrupt(0x80)) == Vector.SS
    assert frame(vcpu, 1) == [0]
    assert [guest.memory.load64(RAM + page + at) for at in (8, 0)] == [0x18, high + 0x10]
    guest.memory.store64(leaf, 0)
    guest.flush()
    vcpu.regs[Reg.RSP] = high + 0x10
    assert raises(vcpu, lambda: vcpu.interrupt(0x80)) == Vector.PF
    assert vcpu.cr2 == high + 8


def test_the_fault_of_the_first_fetch_pushes_rf_set(vcpu: VCpu) -> None:
    """VM entry takes the address after the last one of the lower half; the fetch there is a fault as any other."""
    vcpu.machine.exit_handler = lambda vcpu: vcpu.vmcs.saved.__setitem__(Reg.RIP, 1 << 47)
    gate(vcpu, 13)
    vcpu.regs[Reg.RFLAGS] = 2
    assert raises(vcpu, vcpu.vmcall) == Vector.GP
    assert frame(vcpu, 4) == [0, 1 << 47, 0x10, 2 | RF]
