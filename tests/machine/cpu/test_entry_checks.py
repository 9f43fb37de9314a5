"""VM entry and the guest state that it refuses (SDM Vol. 3C, 27.3.1 and 27.8)."""

from __future__ import annotations

from typing import Any

import pytest

from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.faults import GuestFault, Vector, VmEntryFailure
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import Reg, Saved
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.machine import Machine

CR0, CR4, EFER = 0x8001_0033, 0x20, 0xD01


@pytest.fixture
def vcpu() -> VCpu:
    """A vCPU as after reset, with an exit handler that the tests replace."""
    return Machine(1 << 20).add_vcpu(1)


def entered(vcpu: VCpu, place: int, value: Any) -> bool:
    """Whether VM entry takes `value` in the guest state; the handler of a failed entry stops the vCPU."""
    reasons: list[ExitReason] = []

    def handle(vcpu: VCpu) -> None:
        reasons.append(vcpu.vmcs.reason)
        if vcpu.vmcs.reason is ExitReason.INVALID_GUEST_STATE:
            vcpu.runnable = RunState.STOPPED
        else:
            vcpu.vmcs.saved[place] = value

    vcpu.machine.exit_handler = handle
    vcpu.vmcall()
    assert reasons[1:] in ([], [ExitReason.INVALID_GUEST_STATE])
    return len(reasons) == 1


@pytest.mark.parametrize(
    ("place", "value", "accepted"),
    [
        (Reg.RIP, 1 << 48, False),
        (Reg.RIP, 0xFFFE_FFFF_FFFF_FFFF, False),
        (Reg.RIP, (1 << 47) - 1, True),
        (Reg.RIP, 0xFFFF_8000_0000_0000, True),
        (Reg.RSP, 1 << 47, True),
        (Reg.RFLAGS, 0, False),
        (Reg.RFLAGS, 2 | 1 << 3, False),
        (Reg.RFLAGS, 2 | 1 << 5, False),
        (Reg.RFLAGS, 2 | 1 << 15, False),
        (Reg.RFLAGS, 2 | 1 << 17, False),
        (Reg.RFLAGS, 2 | 1 << 22, False),
        (Reg.RFLAGS, 2 | 1 << 63, False),
        (Reg.RFLAGS, 0x3D_7FD7, True),
        (Saved.CR0, CR0 & ~1, False),
        (Saved.CR0, CR0 & ~(1 << 5), False),
        (Saved.CR0, CR0 & ~(1 << 31), False),
        (Saved.CR0, CR0 | 1 << 32, False),
        (Saved.CR0, CR0 | 1 << 29, True),
        (Saved.CR2, 1 << 47, True),
        (Saved.CR3, 1 << 40, False),
        (Saved.CR3, 1 << 63, False),
        (Saved.CR3, 0xFF_FFFF_FFFF, True),
        (Saved.CR4, 0, False),
        (Saved.CR4, CR4 | 1 << 12, False),
        (Saved.CR4, CR4 | 1 << 17, True),
        (Saved.EFER, EFER & ~(1 << 8), False),
        (Saved.EFER, EFER & ~(1 << 10), False),
        (Saved.EFER, EFER | 1 << 1, False),
        (Saved.CPL, 1, False),
        (Saved.CPL, 3, True),
        (Saved.MSRS, {msrs.PAT: 2}, False),
        (Saved.MSRS, {msrs.SYSENTER_ESP: 1 << 47}, False),
        (Saved.MSRS, {msrs.SYSENTER_EIP: 1 << 47}, False),
        (Saved.MSRS, {msrs.FS_BASE: 1 << 47}, False),
        (Saved.MSRS, {msrs.GS_BASE: 1 << 47}, False),
        (Saved.IDTR, (1 << 47, 0), False),
        (Saved.IDTR, (0, 0x1_0000), False),
        (Saved.TR, (1 << 47, 0), False),
    ],
)
def test_guest_state(vcpu: VCpu, place: int, value: Any, accepted: bool) -> None:
    before = list(vcpu.regs)
    assert entered(vcpu, place, value) is accepted
    if not accepted:
        assert vcpu.regs == before, "nothing was loaded"


def test_an_msr_changed_in_place_is_checked(vcpu: VCpu) -> None:
    vcpu.machine.exit_handler = lambda vcpu: vcpu.vmcs.saved[Saved.MSRS].update({msrs.PAT: 2})
    with pytest.raises(VmEntryFailure, match="0x80000021"):
        vcpu.vmcall()


def test_a_hypervisor_may_repair_the_state(vcpu: VCpu) -> None:
    reasons: list[ExitReason] = []

    def handle(vcpu: VCpu) -> None:
        reasons.append(vcpu.vmcs.reason)
        vcpu.vmcs.saved[Reg.RIP] = 1 << 50 if len(reasons) == 1 else 0x5000

    vcpu.machine.exit_handler = handle
    vcpu.vmcall()
    assert reasons == [ExitReason.VMCALL, ExitReason.INVALID_GUEST_STATE]
    assert vcpu.regs[Reg.RIP] == 0x5000


def test_a_hypervisor_that_enters_again_as_before_is_at_its_end(vcpu: VCpu) -> None:
    def handle(vcpu: VCpu) -> None:
        vcpu.vmcs.saved[Reg.RFLAGS] = 0

    vcpu.machine.exit_handler = handle
    with pytest.raises(VmEntryFailure, match="0x80000021"):
        vcpu.vmcall()
    assert not vcpu.in_root


def test_a_stopped_vcpu_is_not_entered(vcpu: VCpu) -> None:
    def handle(vcpu: VCpu) -> None:
        vcpu.vmcs.saved[Reg.RIP] = 1 << 50
        vcpu.runnable = RunState.STOPPED

    vcpu.machine.exit_handler = handle
    vcpu.vmcall()
    assert vcpu.vmcs.reason is ExitReason.VMCALL


@pytest.mark.parametrize("rip", [1 << 47, (1 << 48) - 1, 0xFFFF_7FFF_FFFF_FFFF])
def test_the_border_of_the_lower_half(vcpu: VCpu, rip: int) -> None:
    """Bits 63..48 are checked, not 63..47 (27.3.1.4), so that an instruction in the last bytes can be emulated.

    The fetch that follows faults.
    """
    vcpu.machine.exit_handler = lambda vcpu: vcpu.vmcs.saved.__setitem__(Reg.RIP, rip)
    with pytest.raises(GuestFault) as raised:
        vcpu.vmcall()
    assert (raised.value.vector, raised.value.error) == (Vector.GP, 0)
    assert vcpu.regs[Reg.RIP] == rip
