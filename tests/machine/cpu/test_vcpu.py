"""Instructions and exits: privilege, faults, and that an exit saves and restores the whole vCPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.instructions.control_registers import current_pcid
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import Reg, Saved
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu import paging

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

Instruction = Callable[[VCpu], Any]
STATE = ("cr0", "cr2", "cr3", "cr4", "efer", "cpl")
OTHER_STATE: dict[int, Any] = {
    Reg.RFLAGS: 0x202,
    Saved.CR0: 0x8000_0033,
    Saved.CR3: 0x7000,
    Saved.CR4: 0xA0,
    Saved.EFER: 0x500,
    Saved.CPL: 3,
    Saved.MSRS: {msrs.STAR: 2},
    Saved.IDTR: (0x1000, 0xFF),
    Saved.TR: (0x2000, 0x67),
    Saved.CS: 0x33,
    Saved.SS: 0,
}
"""Valid values, other than those at the start."""


def state(vcpu: VCpu) -> list[Any]:
    return [*vcpu.regs, *(getattr(vcpu, name) for name in STATE), dict(vcpu.msrs), vcpu.idtr, vcpu.tr, vcpu.cs, vcpu.ss]


def faults(instruction: Instruction, vcpu: VCpu) -> int | None:
    """The vector of the exception that the instruction raises, whose error code must be 0; or None."""
    before = state(vcpu)
    try:
        instruction(vcpu)
    except GuestFault as fault:
        vector, error = fault.vector, fault.error
    else:
        return None
    assert error == 0
    after = state(vcpu)
    for register in (Reg.RAX, Reg.RCX, Reg.RDX, Reg.RSI, Reg.RDI):  # These may already hold operands.
        before[register] = after[register]
    assert after == before
    return vector


# -------------------------------------------------------------------- exits


@pytest.fixture
def vcpu() -> VCpu:
    """A vCPU with a different value in every part of its state."""
    vcpu = Machine(1 << 20).add_vcpu(1)
    vcpu.regs[:] = range(100, 100 + len(Reg))
    vcpu.regs[Reg.RFLAGS] = 0x46
    vcpu.cr2, vcpu.cr3 = 0x1234, 0x5000
    vcpu.msrs.update({msrs.LSTAR: 0x777, msrs.STAR: 5})
    vcpu.machine.exit_handler = lambda vcpu: None
    return vcpu


def test_an_exit_saves_the_whole_state_and_entry_restores_it(vcpu: VCpu) -> None:
    before = state(vcpu)
    regs = vcpu.regs

    def scribble(vcpu: VCpu) -> None:
        assert vcpu.vmcs.saved == before
        assert vcpu.in_root
        regs[:] = [0] * len(Reg)
        for name in STATE:
            setattr(vcpu, name, 0)
        vcpu.msrs.clear()

    vcpu.machine.exit_handler = scribble
    vcpu.vmcall()
    assert state(vcpu) == before
    assert vcpu.regs is regs
    assert not vcpu.in_root


@pytest.mark.parametrize("place", [*Reg, *Saved])
def test_the_handler_edits_the_saved_state(vcpu: VCpu, place: int) -> None:
    expected = state(vcpu)
    expected[place] = OTHER_STATE.get(place, 77)

    def edit(vcpu: VCpu) -> None:
        vcpu.vmcs.saved[place] = expected[place]

    vcpu.machine.exit_handler = edit
    vcpu.vmcall()
    assert state(vcpu) == expected


def test_entry_injects_the_pending_fault(vcpu: VCpu) -> None:
    vcpu.machine.exit_handler = lambda vcpu: setattr(vcpu, "pending_fault", GuestFault(Vector.PF, 6, 0x9000))
    with pytest.raises(GuestFault) as raised:
        vcpu.cpuid(0)
    assert raised.value.error == 6
    assert vcpu.cr2 == 0x1234, "VM entry does not load it"
    assert vcpu.pending_fault is None
    vcpu.machine.exit_handler = lambda vcpu: None
    vcpu.cpuid(0)


def test_a_handler_that_raises_leaves_the_guest_as_it_was(vcpu: VCpu) -> None:
    def fail(vcpu: VCpu) -> None:
        raise KeyError("host")

    vcpu.machine.exit_handler = fail
    before = state(vcpu)
    with pytest.raises(KeyError):
        vcpu.vmcall()
    assert state(vcpu) == before
    assert not vcpu.in_root


def test_a_vcpu_does_not_run_while_its_exit_is_handled(vcpu: VCpu) -> None:
    other = vcpu.machine.add_vcpu(1)
    nested: list[VCpu] = []

    def handle(exited: VCpu) -> None:
        if exited is vcpu:
            other.vmcall()
            with pytest.raises(RuntimeError, match="being handled"):
                vcpu.vmcall()
        else:
            nested.append(exited)

    vcpu.machine.exit_handler = handle
    vcpu.vmcall()
    assert nested == [other]


def test_a_machine_without_a_hypervisor() -> None:
    with pytest.raises(RuntimeError, match="VMCALL"):
        Machine(1 << 20).add_vcpu(1).vmcall()


def test_exits_and_entries_take_time(vcpu: VCpu) -> None:
    before = vcpu.machine.clock.cycles
    vcpu.vmcall()
    assert vcpu.machine.clock.cycles - before >= 1000


def test_vcpus_are_numbered() -> None:
    machine = Machine(1 << 20)
    vcpus = [machine.add_vcpu(domain) for domain in (0, 1, 1, 2)]
    assert [(vcpu.id, vcpu.domain, vcpu.index, vcpu.vpid) for vcpu in vcpus] == [
        (0, 0, 0, 1),
        (1, 1, 0, 2),
        (2, 1, 1, 3),
        (3, 2, 0, 4),
    ]


# ----------------------------------------- exits and their information

EXITING: list[tuple[ExitReason, Instruction, dict[str, Any]]] = [
    (ExitReason.VMCALL, lambda vcpu: vcpu.vmcall(), {"length": 3}),
    (ExitReason.CPUID, lambda vcpu: vcpu.cpuid(0x4000_0000), {"leaf": 0x4000_0000, "length": 2}),
    (ExitReason.RDTSC, lambda vcpu: vcpu.rdtsc(), {"length": 2}),
    (ExitReason.RDTSCP, lambda vcpu: vcpu.rdtscp(), {"length": 3}),
    (ExitReason.HLT, lambda vcpu: vcpu.hlt(), {"length": 1}),
    (ExitReason.PAUSE, lambda vcpu: vcpu.pause(), {"length": 2}),
    (
        ExitReason.IO,
        lambda vcpu: vcpu.inp(0x3F8, 2),
        {"port": 0x3F8, "width": 2, "write": False, "qualification": 0x03F8_0009},
    ),
    (
        ExitReason.IO,
        lambda vcpu: vcpu.out(0x3F8, 4, 9),
        {"port": 0x3F8, "width": 4, "write": True, "qualification": 0x03F8_0003},
    ),
    (ExitReason.CR_ACCESS, lambda vcpu: vcpu.mov_cr(4, 0), {"qualification": 4}),
    (ExitReason.INVLPG, lambda vcpu: vcpu.invlpg(0x5000), {"qualification": 0x5000}),
    (ExitReason.RDMSR, lambda vcpu: vcpu.rdmsr(0x10), {"leaf": 0x10, "write": False}),
    (ExitReason.WRMSR, lambda vcpu: vcpu.wrmsr(0x10, 5), {"leaf": 0x10, "write": True}),
]
ALWAYS = (ExitReason.VMCALL, ExitReason.CPUID)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(("reason", "instruction", "information"), EXITING)
def test_exits(
    vcpu: VCpu, reason: ExitReason, instruction: Instruction, information: dict[str, Any], asked: bool
) -> None:
    exits: list[tuple[ExitReason, dict[str, Any]]] = []
    vcpu.machine.exit_handler = lambda vcpu: exits.append(
        (vcpu.vmcs.reason, {name: getattr(vcpu.vmcs, name) for name in information})
    )
    vcpu.vmcs.intercepts = 1 << reason if asked else 0
    faulted = faults(instruction, vcpu)
    if asked or reason in ALWAYS:
        assert exits == [(reason, information)]
        assert faulted is None
    else:
        assert exits == []


def test_the_time_stamp_counter_is_the_clock_and_an_offset(vcpu: VCpu) -> None:
    vcpu.machine.clock.cycles = 0x1_0000_0000
    vcpu.vmcs.tsc_offset = 2**64 - 5
    vcpu.msrs[msrs.TSC_AUX] = 7
    now = vcpu.rdtsc()
    assert vcpu.machine.clock.cycles - 100 < now + 5 <= vcpu.machine.clock.cycles
    assert (vcpu.regs[Reg.RAX], vcpu.regs[Reg.RDX]) == (now & 0xFFFF_FFFF, now >> 32)
    assert vcpu.rdtscp() > now
    assert vcpu.regs[Reg.RCX] == 7


@pytest.mark.parametrize("instruction", [VCpu.rdtsc, VCpu.rdtscp])
@pytest.mark.parametrize(("cpl", "tsd", "vector"), [(0, 1, None), (3, 0, None), (3, 1, Vector.GP)])
def test_time_stamps_may_be_for_ring_0(
    vcpu: VCpu, instruction: Instruction, cpl: int, tsd: int, vector: int | None
) -> None:
    vcpu.cr4 |= paging.CR4_TSD * tsd
    vcpu.cpl = cpl
    vcpu.vmcs.intercepts = ~0
    assert faults(instruction, vcpu) == vector


def test_by_default_halt_and_ports_exit(vcpu: VCpu) -> None:
    seen: list[ExitReason] = []
    vcpu.machine.exit_handler = lambda vcpu: seen.append(vcpu.vmcs.reason)
    for instruction in (VCpu.hlt, VCpu.pause, VCpu.cli, lambda vcpu: vcpu.inp(0x60, 1), lambda vcpu: vcpu.invlpg(0)):
        instruction(vcpu)
    assert seen == [ExitReason.HLT, ExitReason.IO]


def test_results_of_exits_come_in_registers(vcpu: VCpu) -> None:
    def answer(vcpu: VCpu) -> None:
        vcpu.vmcs.saved[Reg.RAX] = 0x1_1111_2222
        vcpu.vmcs.saved[Reg.RDX] = 0x3_3333_4444

    vcpu.machine.exit_handler = answer
    vcpu.vmcs.intercepts |= 1 << ExitReason.RDMSR
    assert vcpu.inp(0x3F8, 1) == 0x22
    assert vcpu.inp(0x3F8, 4) == 0x1111_2222
    assert vcpu.rdmsr(0x10) == 0x3333_4444_1111_2222


def test_without_an_intercept_the_processor_does_it(vcpu: VCpu) -> None:
    vcpu.vmcs.intercepts = 0
    assert vcpu.inp(0x3F8, 2) == vcpu.regs[Reg.RAX] == 0xFFFF
    vcpu.out(0x3F8, 2, 1)
    vcpu.hlt()
    assert vcpu.runnable == RunState.HALTED


# --------------------------------------------------------------- privilege

PRIVILEGED: list[Instruction] = [
    lambda vcpu: vcpu.hlt(),
    lambda vcpu: vcpu.mov_cr(0, 0x8001_0033),
    lambda vcpu: vcpu.mov_cr(2, 0),
    lambda vcpu: vcpu.mov_cr(3, 0),
    lambda vcpu: vcpu.mov_cr(4, paging.CR4_PAE),
    lambda vcpu: vcpu.mov_cr(8, 0),
    lambda vcpu: vcpu.read_cr(0),
    lambda vcpu: vcpu.read_cr(8),
    lambda vcpu: vcpu.invlpg(0),
    lambda vcpu: vcpu.invpcid(3, 0),
    lambda vcpu: vcpu.rdmsr(msrs.STAR),
    lambda vcpu: vcpu.wrmsr(msrs.STAR, 0),
    lambda vcpu: vcpu.sysret(),
    lambda vcpu: vcpu.swapgs(),
]
BY_IOPL: list[Instruction] = [
    lambda vcpu: vcpu.cli(),
    lambda vcpu: vcpu.sti(),
    lambda vcpu: vcpu.inp(0x3F8, 1),
    lambda vcpu: vcpu.out(0x3F8, 1, 0),
    lambda vcpu: vcpu.ins(0x3F8, 1, 0, 0),
    lambda vcpu: vcpu.outs(0x3F8, 1, 0, 0),
]


@pytest.mark.parametrize("instruction", PRIVILEGED)
def test_privileged_instructions(vcpu: VCpu, instruction: Instruction) -> None:
    vcpu.regs[Reg.RFLAGS] = 2 | 3 << 12
    assert faults(instruction, vcpu) is None
    vcpu.cpl = 3
    assert faults(instruction, vcpu) == Vector.GP


@pytest.mark.parametrize("instruction", BY_IOPL)
@pytest.mark.parametrize(("cpl", "iopl", "allowed"), [(0, 0, True), (3, 3, True), (3, 2, False), (3, 0, False)])
def test_iopl(vcpu: VCpu, instruction: Instruction, cpl: int, iopl: int, allowed: bool) -> None:
    vcpu.cpl = cpl
    vcpu.regs[Reg.RFLAGS] = 2 | iopl << 12
    assert faults(instruction, vcpu) == (None if allowed else Vector.GP)


@pytest.mark.parametrize("instruction", [VCpu.vmcall, VCpu.pause, lambda vcpu: vcpu.cpuid(1)])
def test_unprivileged_instructions(vcpu: VCpu, instruction: Instruction) -> None:
    vcpu.cpl = 3
    assert faults(instruction, vcpu) is None


def test_a_privilege_fault_comes_before_the_exit(vcpu: VCpu) -> None:
    vcpu.machine.exit_handler = lambda vcpu: pytest.fail("exit")
    vcpu.vmcs.intercepts = ~0
    vcpu.regs[Reg.RFLAGS] = 2
    vcpu.cpl = 3
    for instruction in (*PRIVILEGED, *BY_IOPL):
        assert faults(instruction, vcpu) == Vector.GP


# ------------------------------------------------------------ rings, flags


def test_syscall_and_sysret(vcpu: VCpu) -> None:
    regs = vcpu.regs
    vcpu.cpl = 3
    regs[Reg.RIP], regs[Reg.RFLAGS] = 0x40_0000, 0x202
    vcpu.msrs.update({msrs.LSTAR: 0xFFFF_8800_0000_1000, msrs.FMASK: 0x200})
    vcpu.syscall()
    assert vcpu.cpl == 0
    assert (regs[Reg.RIP], regs[Reg.RCX]) == (0xFFFF_8800_0000_1000, 0x40_0002)
    assert (regs[Reg.RFLAGS], regs[Reg.R11]) == (2, 0x202)
    regs[Reg.R11] = 2**64 - 1
    vcpu.sysret()
    assert vcpu.cpl == 3
    assert regs[Reg.RIP] == 0x40_0002
    assert regs[Reg.RFLAGS] == 0x3C7FD7


def test_sysret_to_a_bad_address_faults_in_ring_0(vcpu: VCpu) -> None:
    vcpu.regs[Reg.RCX] = 1 << 47
    assert faults(VCpu.sysret, vcpu) == Vector.GP
    assert vcpu.cpl == 0


@pytest.mark.parametrize("instruction", [VCpu.syscall, VCpu.sysret])
def test_syscall_has_to_be_enabled(vcpu: VCpu, instruction: Instruction) -> None:
    vcpu.efer &= ~paging.EFER_SCE
    assert faults(instruction, vcpu) == Vector.UD


def test_interrupt_flag(vcpu: VCpu) -> None:
    vcpu.regs[Reg.RFLAGS] = 2
    vcpu.sti()
    assert vcpu.regs[Reg.RFLAGS] == 2 | paging.RFLAGS_IF
    vcpu.cli()
    assert vcpu.regs[Reg.RFLAGS] == 2


def test_a_string_exits_until_its_count_is_done(vcpu: VCpu) -> None:
    counts: list[tuple[int, int]] = []

    def handle(vcpu: VCpu) -> None:
        vmcs = vcpu.vmcs
        saved = vmcs.saved
        assert (vmcs.reason, vmcs.qualification, vmcs.string, vmcs.length) == (ExitReason.IO, 0x03F8_0030, True, 2)
        counts.append((saved[Reg.RCX], vmcs.operand))
        saved[Reg.RCX] = max(saved[Reg.RCX] - 4, 0)
        saved[Reg.RSI] += 4

    vcpu.machine.exit_handler = handle
    assert vcpu.outs(0x3F8, 1, 0x5000, 10) == 0
    assert counts == [(10, 0x5000), (6, 0x5004), (2, 0x5008)]
    counts.clear()
    assert vcpu.outs(0x3F8, 1, 0x5000, 0) == 0
    assert counts == []
    vcpu.machine.exit_handler = lambda vcpu: None
    vcpu.inp(0x3F8, 1)
    assert not vcpu.vmcs.string


def test_a_string_that_does_not_get_on_ends(vcpu: VCpu) -> None:
    assert vcpu.ins(0x3F8, 1, 0x5000, 10) == 10


def test_a_string_without_a_hypervisor(guest: Guest) -> None:
    vcpu = guest.vcpu
    vcpu.vmcs.intercepts = 0
    guest.map(0x5000, 0x8000, paging.P | paging.RW)
    guest.memory.store64((4 << 20) + 0x8000, 0)
    vcpu.regs[Reg.RAX] = 5
    assert vcpu.ins(0x60, 2, 0x5002, 2) == 0
    assert guest.memory.load64((4 << 20) + 0x8000) == 0xFFFF_FFFF_0000
    assert (vcpu.regs[Reg.RDI], vcpu.regs[Reg.RAX]) == (0x5006, 5)
    vcpu.regs[Reg.RFLAGS] |= paging.RFLAGS_DF
    with pytest.raises(GuestFault):
        vcpu.outs(0x60, 4, 0x5004, 3)
    assert (vcpu.regs[Reg.RSI], vcpu.regs[Reg.RCX], vcpu.cr2) == (0x4FFC, 1, 0x4FFC)


@pytest.mark.parametrize("size", [0, 3, 8])
def test_ports_have_no_other_widths(vcpu: VCpu, size: int) -> None:
    assert faults(lambda vcpu: vcpu.inp(0x3F8, size), vcpu) == Vector.UD


# -------------------------------------------------------- control registers

CR0 = 0x8001_0033


@pytest.mark.parametrize(
    ("register", "value", "vector"),
    [
        (0, CR0, None),
        (0, CR0 & ~paging.CR0_WP, None),
        (0, CR0 | paging.CR0_CD, None),
        (0, CR0 | paging.CR0_CD | paging.CR0_NW, None),
        (0, CR0 | paging.CR0_NW, Vector.GP),
        (0, CR0 & ~paging.CR0_PG, Vector.GP),
        (0, CR0 & ~paging.CR0_PE, Vector.GP),
        (0, CR0 & ~paging.CR0_NE, Vector.GP),
        (0, CR0 | 1 << 32, Vector.GP),
        (2, 2**64 - 1, None),
        (3, 0xFF_FFFF_F000, None),
        (3, 1 << 40, Vector.GP),
        (3, 1 << 51, Vector.GP),
        (3, 1 << 52, Vector.GP),
        (3, 1 << 63, Vector.GP),
        (4, paging.CR4_PAE | paging.CR4_SMEP | paging.CR4_SMAP | paging.CR4_PGE, None),
        (4, paging.CR4_PAE | paging.CR4_PCIDE, None),
        (4, 0, Vector.GP),
        (4, paging.CR4_PAE | 1 << 12, Vector.GP),
        (4, paging.CR4_PAE | 1 << 13, Vector.GP),
        (4, paging.CR4_PAE | 1 << 63, Vector.GP),
        (1, 0, Vector.UD),
        (5, 0, Vector.UD),
        (9, 0, Vector.UD),
        (-1, 0, Vector.UD),
    ],
)
def test_control_registers(vcpu: VCpu, register: int, value: int, vector: int | None) -> None:
    assert faults(lambda vcpu: vcpu.mov_cr(register, value), vcpu) == vector
    if vector is None:
        assert getattr(vcpu, f"cr{register}") == value


@pytest.mark.parametrize("register", [0, 2, 3, 4])
def test_control_registers_are_read(vcpu: VCpu, register: int) -> None:
    assert vcpu.read_cr(register) == vcpu.regs[Reg.RAX] == getattr(vcpu, f"cr{register}")


@pytest.mark.parametrize("register", [1, 5, 9])
def test_other_control_registers_do_not_exist(vcpu: VCpu, register: int) -> None:
    assert faults(lambda vcpu: vcpu.read_cr(register), vcpu) == Vector.UD


def test_accesses_to_cr8_exit(vcpu: VCpu) -> None:
    """Also those that set reserved bits: the exit comes before that fault (SDM Vol. 3C, 26.1.1)."""
    seen: list[tuple[int, ...]] = []

    def handle(vcpu: VCpu) -> None:
        vmcs = vcpu.vmcs
        seen.append((vmcs.reason, vmcs.qualification, vmcs.length, vmcs.saved[Reg.RAX]))
        vmcs.saved[Reg.RAX] = 5

    vcpu.machine.exit_handler = handle
    vcpu.vmcs.intercepts = 0
    vcpu.mov_cr(8, 0x77)
    assert vcpu.read_cr(8) == 5
    assert seen == [(28, 8, 4, 0x77), (28, 0x18, 4, 5)]


def test_invlpg_exiting_decides_for_invpcid(vcpu: VCpu) -> None:
    """SDM Vol. 3C, 26.1.3. The exit comes before the fault of an operand, and after that of the ring."""
    seen: list[ExitReason] = []
    vcpu.machine.exit_handler = lambda vcpu: seen.append(vcpu.vmcs.reason)
    vcpu.vmcs.intercepts = 1 << ExitReason.INVLPG
    vcpu.invpcid(77, 0)
    assert seen == [ExitReason.INVPCID]
    vcpu.cpl = 3
    assert faults(lambda vcpu: vcpu.invpcid(2, 0), vcpu) == Vector.GP
    vcpu.cpl, vcpu.vmcs.intercepts = 0, 1 << ExitReason.CR_ACCESS
    vcpu.invpcid(2, 0)
    assert len(seen) == 1


def test_reserved_bits_of_the_low_half_of_cr0_are_ignored(vcpu: VCpu) -> None:
    vcpu.mov_cr(0, CR0 & ~paging.CR0_ET | 1 << 6 | 1 << 28)
    assert vcpu.cr0 == CR0


def test_pcid_is_enabled_under_pcid_0_only(vcpu: VCpu) -> None:
    vcpu.cr3 = 0x5003
    enable = paging.CR4_PAE | paging.CR4_PCIDE
    assert faults(lambda vcpu: vcpu.mov_cr(4, enable), vcpu) == Vector.GP
    vcpu.cr3 = 0x5000
    vcpu.mov_cr(4, enable)
    vcpu.mov_cr(3, 0x6003 | 1 << 63)
    assert vcpu.cr3 == 0x6003
    assert current_pcid(vcpu) == 3
    assert faults(lambda vcpu: vcpu.mov_cr(3, 1 << 62), vcpu) == Vector.GP


@pytest.mark.parametrize(
    ("kind", "pcid", "gva", "pcide", "vector"),
    [
        (0, 0, 0x5000, 0, None),
        (0, 0, 1 << 47, 0, Vector.GP),
        (0, 5, 0x5000, 0, Vector.GP),
        (0, 5, 0x5000, 1, None),
        (1, 5, 1 << 47, 1, None),
        (1, 5, 0, 0, Vector.GP),
        (2, 5, 0, 0, None),
        (3, 0x1000, 0, 1, Vector.GP),
        (4, 0, 0, 1, Vector.GP),
        (-1, 0, 0, 1, Vector.GP),
    ],
)
def test_invpcid(vcpu: VCpu, kind: int, pcid: int, gva: int, pcide: int, vector: int | None) -> None:
    vcpu.cr4 |= paging.CR4_PCIDE * pcide
    assert faults(lambda vcpu: vcpu.invpcid(kind, pcid, gva), vcpu) == vector


def test_invlpg_of_a_non_canonical_address_does_nothing(guest: Guest) -> None:
    guest.machine.tlb.insert((1, 0, 0x1000, 1 << 35), (0, 7, True, False, 0, 0))
    guest.vcpu.invlpg(1 << 47)
    assert guest.machine.tlb.combined


# -------------------------------------------------------------------- MSRs


@pytest.mark.parametrize(
    ("index", "value", "vector"),
    [
        (msrs.STAR, 2**64 - 1, None),
        (msrs.LSTAR, 0xFFFF_8000_0000_0000, None),
        (msrs.LSTAR, 1 << 47, Vector.GP),
        (msrs.FS_BASE, 1 << 63, Vector.GP),
        (msrs.GS_BASE, 5, None),
        (msrs.KERNEL_GS_BASE, 1 << 47, Vector.GP),
        (msrs.PAT, 0x0007_0406_0007_0406, None),
        (msrs.PAT, 2, Vector.GP),
        (msrs.PAT, 3 << 56, Vector.GP),
        (msrs.PAT, 8, Vector.GP),
        (msrs.SYSENTER_CS, 0xFFFF_FFFF, None),
        (msrs.SYSENTER_ESP, 1 << 47, Vector.GP),
        (msrs.SYSENTER_EIP, 1 << 47, Vector.GP),
        (msrs.CSTAR, 1 << 47, Vector.GP),
        (msrs.CSTAR, 7, None),
        (msrs.FMASK, 1 << 32, Vector.GP),
        (msrs.FMASK, 0xFFFF_FFFF, None),
        (msrs.TSC_AUX, 0xFFFF_FFFF, None),
        (msrs.TSC_AUX, 1 << 32, Vector.GP),
        (msrs.EFER, 0xD01, None),
        (msrs.EFER, 0x500, None),
        (msrs.EFER, 0x400, Vector.GP),
        (msrs.EFER, 0xD03, Vector.GP),
        (0x10, 0, Vector.GP),
        (0x800, 0, Vector.GP),
        (0, 0, Vector.GP),
    ],
)
def test_msrs(vcpu: VCpu, index: int, value: int, vector: int | None) -> None:
    assert faults(lambda vcpu: vcpu.wrmsr(index, value), vcpu) == vector
    if vector is None:
        assert vcpu.rdmsr(index) == value
        assert vcpu.regs[Reg.RAX] == value & 0xFFFF_FFFF
        assert vcpu.regs[Reg.RDX] == value >> 32


@pytest.mark.parametrize("index", [0, msrs.STAR, 0x1FFF, 0x2000, 0xC000_1FFF, 0xC000_2000, 0xBFFF_FFFF, 0xFFFF_FFFF])
@pytest.mark.parametrize("write", [False, True])
def test_a_bitmap_says_which_accesses_exit(vcpu: VCpu, index: int, write: bool) -> None:
    """SDM Vol. 3C, 25.6.9: reads of low and high MSRs, writes of low and high ones; others always exit."""
    exits: list[ExitReason] = []
    vcpu.machine.exit_handler = lambda vcpu: exits.append(vcpu.vmcs.reason)
    vcpu.vmcs.msr_bitmap = 0x3000
    vcpu.msrs.clear()

    def access() -> int:
        exits.clear()
        faults((lambda vcpu: vcpu.wrmsr(index, 0)) if write else (lambda vcpu: vcpu.rdmsr(index)), vcpu)
        return len(exits)

    low, high = index < 0x2000, 0xC000_0000 <= index < 0xC000_2000
    assert access() == (0 if low or high else 1)
    if low or high:
        byte = 0x3000 + 2048 * write + 1024 * high + (index & 0x1FFF) // 8
        vcpu.memory.store(byte, 1, 1 << (index & 7))
        assert access() == 1
        vcpu.memory.store(byte, 1, 0xFF ^ 1 << (index & 7))
        assert access() == 0


def test_swapgs(vcpu: VCpu) -> None:
    vcpu.wrmsr(msrs.GS_BASE, 0x1000)
    vcpu.swapgs()
    assert (vcpu.rdmsr(msrs.GS_BASE), vcpu.rdmsr(msrs.KERNEL_GS_BASE)) == (0, 0x1000)
    vcpu.swapgs()
    assert (vcpu.rdmsr(msrs.GS_BASE), vcpu.rdmsr(msrs.KERNEL_GS_BASE)) == (0x1000, 0)


def test_sysenter_and_sysexit(vcpu: VCpu) -> None:
    regs = vcpu.regs
    assert faults(VCpu.sysenter, vcpu) == faults(VCpu.sysexit, vcpu) == Vector.GP, "no code segment was set"
    vcpu.msrs.update({msrs.SYSENTER_CS: 8, msrs.SYSENTER_ESP: 0x7000, msrs.SYSENTER_EIP: 0x8000})
    vcpu.cpl = 3
    regs[Reg.RFLAGS] = 2 | paging.RFLAGS_IF
    assert faults(VCpu.sysexit, vcpu) == Vector.GP
    vcpu.sysenter()
    assert (vcpu.cpl, regs[Reg.RSP], regs[Reg.RIP], regs[Reg.RFLAGS]) == (0, 0x7000, 0x8000, 2)
    for register in (Reg.RCX, Reg.RDX):
        regs[Reg.RCX], regs[Reg.RDX] = 0x1000, 0x2000
        regs[register] = 1 << 47
        assert faults(VCpu.sysexit, vcpu) == Vector.GP
    regs[Reg.RCX], regs[Reg.RDX] = 0x1000, 0x2000
    vcpu.sysexit()
    assert (vcpu.cpl, regs[Reg.RSP], regs[Reg.RIP]) == (3, 0x1000, 0x2000)


def test_lma_is_read_only(vcpu: VCpu) -> None:
    vcpu.wrmsr(msrs.EFER, paging.EFER_LME)
    assert vcpu.efer == paging.EFER_LME | paging.EFER_LMA


@pytest.mark.parametrize("index", [0x10, 0x900, 2**32 - 1])
def test_msrs_that_do_not_exist(vcpu: VCpu, index: int) -> None:
    assert faults(lambda vcpu: vcpu.rdmsr(index), vcpu) == Vector.GP


def test_an_msr_never_written_is_zero(vcpu: VCpu) -> None:
    assert vcpu.rdmsr(msrs.GS_BASE) == 0


def test_the_page_attribute_table_at_reset(vcpu: VCpu) -> None:
    assert vcpu.rdmsr(msrs.PAT) == 0x0007_0406_0007_0406


def test_the_upper_half_of_sysenter_cs_does_not_exist(vcpu: VCpu) -> None:
    vcpu.wrmsr(msrs.SYSENTER_CS, 2**64 - 8)
    assert vcpu.rdmsr(msrs.SYSENTER_CS) == 0xFFFF_FFF8


def test_fast_calls_load_selectors(vcpu: VCpu) -> None:
    """SDM Vol. 2B, SYSCALL, SYSRET, SYSENTER, SYSEXIT."""
    vcpu.cpl, vcpu.regs[Reg.RCX], vcpu.regs[Reg.RDX] = 3, 0x1000, 0x2000
    vcpu.msrs.update({msrs.STAR: 0x0123 << 48 | 0x0213 << 32, msrs.SYSENTER_CS: 0xA_0153})
    loaded = []
    for instruction in (VCpu.syscall, VCpu.sysret, VCpu.sysenter, VCpu.sysexit):
        vcpu.regs[Reg.RCX] = 0x1000
        instruction(vcpu)
        loaded.append((vcpu.cpl, vcpu.cs, vcpu.ss))
    assert loaded == [(0, 0x210, 0x21B), (3, 0x133, 0x12B), (0, 0x150, 0x158), (3, 0x173, 0x17B)]


def test_fast_calls_clear_rf(vcpu: VCpu) -> None:
    vcpu.regs[Reg.RFLAGS] = 2 | paging.RFLAGS_RF
    vcpu.syscall()
    assert vcpu.regs[Reg.RFLAGS] == vcpu.regs[Reg.R11] == 2
    vcpu.regs[Reg.RFLAGS], vcpu.msrs[msrs.SYSENTER_CS] = 2 | paging.RFLAGS_RF, 8
    vcpu.sysenter()
    assert vcpu.regs[Reg.RFLAGS] == 2
