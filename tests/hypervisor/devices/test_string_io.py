"""INS and OUTS: from and to guest memory, page by page, with the rights of the guest's ring; faults can be resumed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_START, MMIO_BASE, PT_USER_GFN, UART_PORT, USER_BASE
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import RCX, RDI, RFLAGS, RIP, RSI
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.mmu import paging

GuestCall = Callable[..., tuple[Status, int]]
PAGE = DIRECT_MAP + 0x50000
IOPL = 3 << 12


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


def put(vcpu: VCpu, gva: int, data: bytes) -> None:
    """Store bytes as the guest."""
    for at, byte in enumerate(data):
        vcpu.store(gva + at, 1, byte)


def get(vcpu: VCpu, gva: int, size: int) -> bytes:
    """Load bytes as the guest."""
    return bytes(vcpu.load(gva + at, 1) for at in range(size))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_string_is_sent(hv: Hypervisor, vcpu: VCpu, count: int) -> None:
    text = bytes(range(32, 32 + count)) if count < 200 else bytes(200)
    put(vcpu, PAGE + 0xFF0, text)
    rip = vcpu.regs[RIP]
    assert vcpu.outs(UART_PORT, 1, PAGE + 0xFF0, count) == 0
    assert bytes(hv.domains[1].devices.by_name["uart"].transmitted) == text
    assert (vcpu.regs[RSI], vcpu.regs[RIP]) == (PAGE + 0xFF0 + count, rip + 2)


def test_a_string_is_received_over_a_page_border(hv: Hypervisor, vcpu: VCpu) -> None:
    uart = hv.domains[1].devices.by_name["uart"]
    uart.fifo = True
    for byte in b"received":
        uart.receive(byte)
    put(vcpu, PAGE + 0xFFB, bytes(10))
    assert vcpu.ins(UART_PORT, 1, PAGE + 0xFFC, 8) == 0
    assert get(vcpu, PAGE + 0xFFB, 10) == b"\0received\0"
    assert vcpu.regs[RDI] == PAGE + 0x1004


@pytest.mark.parametrize("width", [2, 4])
def test_where_nothing_answers_all_ones_are_stored(vcpu: VCpu, width: int) -> None:
    vcpu.store(PAGE, 8, 0)
    vcpu.ins(0x80, width, PAGE - 1 + width, 1)
    assert get(vcpu, PAGE, 8) == bytes(width - 1) + b"\xff" * width + bytes(9 - 2 * width)


def test_the_direction_flag(hv: Hypervisor, vcpu: VCpu) -> None:
    vcpu.regs[RFLAGS] |= paging.RFLAGS_DF
    put(vcpu, PAGE, b"abcd")
    vcpu.outs(UART_PORT, 1, PAGE + 3, 4)
    assert bytes(hv.domains[1].devices.by_name["uart"].transmitted) == b"dcba"
    assert vcpu.regs[RSI] == PAGE - 1


def test_a_fault_is_the_guests_and_the_string_can_go_on(hv: Hypervisor, vcpu: VCpu) -> None:
    end = USER_BASE + 16 * 0x1000
    put(vcpu, end - 3, b"abc")
    rip = vcpu.regs[RIP]
    with pytest.raises(GuestFault) as raised:
        vcpu.outs(UART_PORT, 1, end - 3, 10)
    assert (raised.value.vector, raised.value.error, vcpu.cr2) == (Vector.PF, 0, end)
    assert (vcpu.regs[RCX], vcpu.regs[RSI], vcpu.regs[RIP]) == (7, end, rip)
    assert bytes(hv.domains[1].devices.by_name["uart"].transmitted) == b"abc"


def test_what_cannot_be_stored_is_not_read_from_the_port(hv: Hypervisor, vcpu: VCpu) -> None:
    hv.domains[1].devices.by_name["uart"].receive(7)
    with pytest.raises(GuestFault):
        vcpu.ins(UART_PORT, 1, 0x1000, 1)
    assert hv.domains[1].devices.by_name["uart"].received == [7]


@pytest.mark.parametrize("instruction", [VCpu.ins, VCpu.outs])
def test_user_code_does_not_reach_its_kernel(vcpu: VCpu, instruction: Callable[..., int]) -> None:
    vcpu.regs[RFLAGS] |= IOPL
    vcpu.cpl = 3
    assert instruction(vcpu, UART_PORT, 1, USER_BASE, 4) == 0
    with pytest.raises(GuestFault) as raised:
        instruction(vcpu, UART_PORT, 1, PAGE, 4)
    assert (raised.value.vector, raised.value.error & 5) == (Vector.PF, 5)


def test_a_kernel_under_smap_does_not_reach_user_pages(vcpu: VCpu) -> None:
    vcpu.mov_cr(4, paging.CR4_PAE | paging.CR4_SMAP)
    with pytest.raises(GuestFault) as raised:
        vcpu.outs(UART_PORT, 1, USER_BASE, 4)
    assert raised.value.vector == Vector.PF


@pytest.mark.parametrize(
    "gva", [HYPERVISOR_HOLE_START, HYPERVISOR_HOLE_START + 0x10_0000, 1 << 47, DIRECT_MAP + MMIO_BASE]
)
def test_where_no_argument_may_lie(vcpu: VCpu, gva: int) -> None:
    for instruction in (vcpu.ins, vcpu.outs):
        with pytest.raises(GuestFault) as raised:
            instruction(UART_PORT, 1, gva, 1)
        assert (raised.value.vector, raised.value.error) == (Vector.GP, 0)


def test_a_page_that_another_vcpu_remaps_is_not_read_with_the_rights_of_the_kernel(hv: Hypervisor, vcpu: VCpu) -> None:
    """The element is translated once, after the race: by then, the page is the kernel's."""
    hv.machine.tlb.set_capacity(0)
    vcpu.regs[RFLAGS] |= IOPL
    vcpu.cpl = 3
    entry = guest_address(hv.domains[1], PT_USER_GFN, 8)
    fetches = hv.machine.fetches
    fetches.reset()
    fetches.arm(0, lambda: hv.machine.memory.store64(entry, 0x50003))
    with pytest.raises(GuestFault) as raised:
        vcpu.outs(UART_PORT, 1, USER_BASE + 0x1000, 1)
    assert (raised.value.vector, raised.value.error) == (Vector.PF, 5)
    assert not hv.domains[1].devices.by_name["uart"].transmitted


def test_an_element_over_a_page_border_is_stored_whole_or_not_at_all(hv: Hypervisor, vcpu: VCpu) -> None:
    end = USER_BASE + 16 * 0x1000
    put(vcpu, end - 2, bytes(2))
    with pytest.raises(GuestFault) as raised:
        vcpu.ins(0x80, 4, end - 2, 1)
    assert (raised.value.vector, raised.value.address) == (Vector.PF, end)
    assert get(vcpu, end - 2, 2) == bytes(2)


def test_a_fault_of_a_stale_table_is_not_the_guests(hv: Hypervisor, vcpu: VCpu) -> None:
    """The processor may use a cached table that the guest has replaced; the fault that follows is spurious."""
    put(vcpu, USER_BASE, b"a")
    memory, domain = hv.machine.memory, hv.domains[1]
    old, new = guest_address(domain, PT_USER_GFN), guest_address(domain, 0x51)
    memory.copy(new, old, PAGE_SIZE)
    memory.store64(old, 0)
    memory.store64(guest_address(domain, PT_USER_GFN - 1, 8 * (USER_BASE >> 21)), 0x51067)
    hv.machine.tlb.combined.clear()
    vcpu.outs(UART_PORT, 1, USER_BASE, 1)
    assert bytes(domain.devices.by_name["uart"].transmitted) == b"a"
