"""Exits other than VMCALL: CPUID, HLT, ports, emulated registers, and accesses that nobody answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi.boot import (
    CPUID_SIGNATURE,
    CPUID_VERSION,
    DIRECT_MAP,
    FIFO_PORT,
    MMIO_BASE,
    MMIO_SIZE,
    PD_MMIO_GFN,
    UART_PORT,
)
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu.exception_delivery import vm_exit
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import RAX, RCX, RIP, Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.devices.dma_engine import DMA_ENGINE_ID, Register

GuestCall = Callable[..., tuple[Status, int]]
MMIO = DIRECT_MAP + MMIO_BASE


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1, which has device 0."""
    return hv.domains[1].vcpus[0]


def test_cpuid_tells_of_the_hypervisor_and_of_nothing_else(vcpu: VCpu) -> None:
    rip = vcpu.regs[RIP]
    vcpu.cpuid(CPUID_SIGNATURE)
    assert vcpu.regs[RAX] == CPUID_VERSION
    parts = (vcpu.regs[Reg.RBX], vcpu.regs[RCX], vcpu.regs[Reg.RDX])
    assert b"".join(part.to_bytes(4, "little") for part in parts) == b"hvfuzz emuhv"
    vcpu.cpuid(CPUID_VERSION)
    assert vcpu.regs[RAX] == 2
    vcpu.cpuid(CPUID_VERSION + 1)
    assert [vcpu.regs[reg] for reg in (RAX, Reg.RBX, RCX, Reg.RDX)] == [0, 0, 0, 0]
    assert vcpu.regs[RIP] == rip + 6


def test_hlt_halts_until_a_kick(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    rip = vcpu.regs[RIP]
    vcpu.hlt()
    assert (vcpu.runnable, vcpu.regs[RIP]) == (RunState.HALTED, rip + 1)
    assert guest_call(hv, hv.domains[1].vcpus[1], "sched.kick", vcpu=0) == (Status.OK, 1)
    assert vcpu.runnable == RunState.RUNNABLE


def test_hlt_goes_on_while_an_event_is_pending(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    _, port = guest_call(hv, vcpu, "event.alloc", remote=1)
    _, peer = guest_call(hv, vcpu, "event.bind", remote=1, port=port)
    guest_call(hv, vcpu, "event.send", port=peer)
    vcpu.hlt()
    assert vcpu.runnable == RunState.RUNNABLE


def test_the_serial_port_is_the_domains_own(hv: Hypervisor, vcpu: VCpu) -> None:
    for byte in b"hello":
        vcpu.out(UART_PORT, 1, byte)
    assert hv.domains[1].devices.by_name["uart"].transmitted == b"hello"
    assert hv.domains[2].devices.by_name["uart"].transmitted == b""
    vcpu.out(UART_PORT + 7, 1, 0x5A)
    vcpu.regs[RAX] = 0x1122334455667788
    assert vcpu.inp(UART_PORT + 7, 1) == 0x5A
    assert vcpu.regs[RAX] == 0x112233445566775A


@pytest.mark.parametrize(("size", "expected"), [(1, 0x11223344556677FF), (2, 0x112233445566FFFF), (4, 0xFFFFFFFF)])
@pytest.mark.parametrize("port", [0, 0x60, FIFO_PORT - 1, UART_PORT + 8, 0xFFFF])
def test_other_ports_read_ones(hv: Hypervisor, vcpu: VCpu, port: int, size: int, expected: int) -> None:
    vcpu.out(port, size, 0x41)
    vcpu.regs[RAX] = 0x1122334455667788
    vcpu.inp(port, size)
    assert vcpu.regs[RAX] == expected
    assert hv.domains[1].devices.by_name["uart"].transmitted == b""


def test_registers_of_an_own_device_are_emulated(hv: Hypervisor, vcpu: VCpu) -> None:
    rip = vcpu.regs[RIP]
    assert vcpu.load(MMIO + Register.ID) == DMA_ENGINE_ID
    assert vcpu.regs[RIP] == rip + 3
    assert vcpu.load(MMIO + Register.ID + 4, 4) == DMA_ENGINE_ID >> 32
    vcpu.store(MMIO + Register.SRC, 8, 0x1122334455667788)
    for size, value in ((1, 0x88), (2, 0x7788), (4, 0x55667788), (8, 0x1122334455667788)):
        vcpu.regs[RAX] = 0xAAAA_AAAA_AAAA_AAAA
        assert vcpu.load(MMIO + Register.SRC, size) == value
        assert vcpu.regs[RAX] == value
    vcpu.store(MMIO + Register.SRC + 2, 2, 0xBEEF)
    assert vcpu.load(MMIO + Register.SRC) == 0x11223344BEEF7788
    assert vcpu.load(MMIO + 0x800) == 0


@pytest.mark.parametrize(("offset", "size"), [(1, 2), (2, 4), (4, 8), (3, 8), (MMIO_SIZE - 4, 8)])
def test_misaligned_register_accesses_read_zero_and_write_nothing(vcpu: VCpu, offset: int, size: int) -> None:
    vcpu.store(MMIO + Register.SRC, 8, (1 << 64) - 1)
    vcpu.store(MMIO + offset, size, 0)
    assert vcpu.load(MMIO + offset, size) == 0
    assert vcpu.load(MMIO + Register.SRC) == (1 << 64) - 1


def test_a_register_never_holds_more_than_was_written(hv: Hypervisor, vcpu: VCpu) -> None:
    """The bounce buffer is hypervisor memory, full of the hypervisor's own words at boot."""
    assert hv.host.read64(hv.bounce) >> 32
    for size in (1, 2, 4):
        vcpu.store(MMIO + Register.DST, size, (1 << 64) - 1)
        assert vcpu.load(MMIO + Register.DST) == (1 << 8 * size) - 1


@pytest.mark.parametrize("access", ["load", "store", "execute"])
@pytest.mark.parametrize(
    "gva", [MMIO + MMIO_SIZE, MMIO + 2 * MMIO_SIZE, DIRECT_MAP + 0x200 * PAGE_SIZE, MMIO + 0x1F_F000]
)
def test_where_nothing_answers_the_guest_gets_a_general_protection_fault(vcpu: VCpu, gva: int, access: str) -> None:
    rip = vcpu.regs[RIP]
    accesses: dict[str, Callable[[int], object]] = {
        "load": vcpu.load,
        "store": lambda at: vcpu.store(at, 8, 1),
        "execute": vcpu.execute,
    }
    with pytest.raises(GuestFault) as raised:
        accesses[access](gva)
    assert (raised.value.vector, raised.value.error, vcpu.regs[RIP]) == (Vector.GP, 0, rip)


def test_registers_cannot_be_executed(vcpu: VCpu) -> None:
    with pytest.raises(GuestFault) as raised:
        vcpu.execute(MMIO)
    assert raised.value.vector == Vector.GP


def test_rights_that_stage_2_denies_are_a_fault_and_not_a_register(
    hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall
) -> None:
    guest_call(hv, vcpu, "memory.protect", first=0x40, count=1, rights=1)
    assert vcpu.load(DIRECT_MAP + 0x40 * PAGE_SIZE) == 0
    with pytest.raises(GuestFault) as raised:
        vcpu.store(DIRECT_MAP + 0x40 * PAGE_SIZE, 8, 1)
    assert raised.value.vector == Vector.GP


def test_a_page_table_in_a_register_page_is_not_emulated(hv: Hypervisor, vcpu: VCpu) -> None:
    entry = guest_address(hv.domains[1], PD_MMIO_GFN, 8 * 0x1F0)
    hv.machine.memory.store64(entry, MMIO_BASE | 7)
    with pytest.raises(GuestFault) as raised:
        vcpu.load(MMIO)
    assert raised.value.vector == Vector.GP


def test_a_device_answers_only_its_present_owner(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    control, other = hv.domains[0].vcpus[0], hv.domains[2].vcpus[0]
    with pytest.raises(GuestFault):
        other.load(MMIO)
    vcpu.store(MMIO + Register.SRC, 8, 0x1234)
    assert guest_call(hv, control, "device.deassign", device=0)[0] is Status.OK
    assert guest_call(hv, control, "device.assign", device=0, to=2)[0] is Status.OK
    assert other.load(MMIO + Register.SRC) == 0
    with pytest.raises(GuestFault):
        vcpu.load(MMIO)


def test_a_stage_2_that_the_hypervisor_broke_stops_the_host(hv: Hypervisor, vcpu: VCpu) -> None:
    _, _, address = hv.domains[1].stage2.lookup(0x40)
    hv.machine.memory.store64(address, 2)  # write-only: a misconfiguration
    with pytest.raises(HostBug):
        vcpu.load(DIRECT_MAP + 0x40 * PAGE_SIZE)


def test_an_exit_that_nobody_asked_for_stops_the_host(vcpu: VCpu) -> None:
    with pytest.raises(HostBug):
        vm_exit(vcpu, ExitReason.EXTERNAL_INTERRUPT)


def test_cr8_is_the_priority_of_the_apic(hv: Hypervisor, vcpu: VCpu) -> None:
    rip = vcpu.regs[RIP]
    vcpu.mov_cr(8, 0xF)
    assert vcpu.rdmsr(0x808) == 0xF0
    vcpu.wrmsr(0x808, 0x3A)
    assert vcpu.read_cr(8) == vcpu.regs[RAX] == 3
    rip += 4 + 2 + 2 + 4
    assert vcpu.regs[RIP] == rip
    with pytest.raises(GuestFault) as raised:
        vcpu.mov_cr(8, 0x10)
    assert (raised.value.vector, raised.value.error) == (Vector.GP, 0)
    assert (vcpu.regs[RIP], vcpu.read_cr(8)) == (rip, 3)
    assert hv.domains[1].vcpus[1].read_cr(8) == 0


def test_a_page_fault_that_is_injected_has_its_address_in_cr2(vcpu: VCpu) -> None:
    with pytest.raises(GuestFault) as raised:
        vcpu.outs(UART_PORT, 1, 0x70_0123, 1)
    assert (raised.value.vector, vcpu.cr2) == (Vector.PF, 0x70_0123)
    assert vcpu.regs[Reg.RFLAGS] & 1 << 16, "VM entry pushes RF as it is"


def test_an_emulated_access_clears_rf(vcpu: VCpu) -> None:
    assert vcpu.load(MMIO + Register.ID) == DMA_ENGINE_ID
    assert not vcpu.regs[Reg.RFLAGS] & 1 << 16


def test_a_guest_state_that_vm_entry_refuses_stops_the_vcpu(hv: Hypervisor, vcpu: VCpu) -> None:
    """The hypervisor makes no such state; here something else does."""
    handle = hv.machine.exit_handler

    def spoil(vcpu: VCpu) -> None:
        handle(vcpu)
        if vcpu.vmcs.reason is ExitReason.CPUID:
            vcpu.vmcs.saved[RIP] = 1 << 48

    hv.machine.exit_handler = spoil
    vcpu.cpuid(0)
    assert (vcpu.vmcs.reason, vcpu.runnable) == (ExitReason.INVALID_GUEST_STATE, RunState.STOPPED)
    assert hv.domains[1].vcpus[1].runnable == RunState.RUNNABLE
