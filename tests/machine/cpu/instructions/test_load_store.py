"""Loads, stores and fetches of a vCPU: operands of every size and alignment, and the exits that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from hvfuzz.machine.addresses import EXEC, READ, U64, WRITE
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.machine.mmu.paging import NX, RW, US, A, D, P

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

RAM = 4 << 20
GVA = 0x7F12_3456_7000
PAGE, SECOND = 0x5000, 0x9000
KERNEL = P | RW | A | D
UNBACKED = 0xFF_0000_0000


@pytest.fixture
def mapped(guest: Guest) -> Guest:
    """Two adjacent linear pages, whose Gpas are not adjacent, with bytes 0, 1, 2, ... in both."""
    guest.map(GVA, PAGE, KERNEL)
    guest.map(GVA + 0x1000, SECOND, KERNEL)
    for gpa in (PAGE, SECOND):
        guest.memory.write(RAM + gpa, bytes(range(256)) * 16)
    return guest


def handled(guest: Guest, handler: Callable[[VCpu], None]) -> list[dict[str, Any]]:
    """Install an exit handler that appends the exit information of the VMCS to the list."""
    exits: list[dict[str, Any]] = []

    def handle(vcpu: VCpu) -> None:
        vmcs = vcpu.vmcs
        names = ("reason", "qualification", "gpa", "gva", "operand", "width", "write", "length")
        exits.append({name: getattr(vmcs, name) for name in names} | {"rax": vmcs.saved[Reg.RAX]})
        handler(vcpu)

    guest.machine.exit_handler = handle
    return exits


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", [0, 8, 1, 3, 0xFF8, 0xFF9, 0xFFC, 0xFFE, 0xFFF])
def test_loads_and_stores_of_every_shape(mapped: Guest, size: int, offset: int) -> None:
    linear = bytearray(bytes(range(256)) * 32)
    vcpu = mapped.vcpu
    vcpu.regs[Reg.RAX] = U64
    expected = int.from_bytes(linear[offset : offset + size], "little")
    assert vcpu.load(GVA + offset, size) == vcpu.regs[Reg.RAX] == expected
    value = 0xF1E2_D3C4_B5A6_9788
    vcpu.store(GVA + offset, size, value)
    assert vcpu.regs[Reg.RAX] == value
    linear[offset : offset + size] = value.to_bytes(8, "little")[:size]
    assert mapped.memory.read(RAM + PAGE, 4096) + mapped.memory.read(RAM + SECOND, 4096) == linear
    mapped.flush()
    assert vcpu.load(GVA + offset, size) == value & ((1 << 8 * size) - 1)


def test_each_access_is_announced_before_it_is_made(mapped: Guest) -> None:
    seen: list[tuple[Any, ...]] = []

    def observe(initiator: object, hpa: int, size: int, access: int) -> None:
        assert initiator is mapped.vcpu
        seen.append((hpa, size, access, mapped.memory.load(hpa, 1)))

    mapped.machine.access_observer = observe
    vcpu = mapped.vcpu
    vcpu.load(GVA + 8, 4)
    vcpu.store(GVA + 9, 1, 0xFF)
    vcpu.store(GVA + 0xFFE, 4, 0)
    vcpu.load(GVA + 0xFFE, 4)
    vcpu.execute(GVA + 7)
    with pytest.raises(GuestFault):
        vcpu.load(GVA + 0x2000, 8)
    assert seen == [
        (RAM + PAGE + 8, 4, READ, 8),
        (RAM + PAGE + 9, 1, WRITE, 9),
        (RAM + PAGE + 0xFFE, 2, WRITE, 0xFE),
        (RAM + SECOND, 2, WRITE, 0),
        (RAM + PAGE + 0xFFE, 2, READ, 0),
        (RAM + SECOND, 2, READ, 0),
        (RAM + PAGE + 7, 1, EXEC, 7),
    ]


@pytest.mark.parametrize("offset", [0x1000, 0x1FFE])
def test_a_fault_anywhere_means_that_nothing_is_written(mapped: Guest, offset: int) -> None:
    gva = GVA + offset
    mapped.memory.store64(mapped.entry(GVA + 0x1000, 1), SECOND | P)
    before = mapped.memory.read(RAM, 0x10000)
    with pytest.raises(GuestFault) as raised:
        mapped.vcpu.store(gva - 2, 4, 0)
    fault = (GVA + 0x2000, paging.PageFaultCode.W)
    if offset == 0x1000:
        fault = (gva, paging.PageFaultCode.W | paging.PageFaultCode.P)
    else:
        fault = (gva - 2, paging.PageFaultCode.W | paging.PageFaultCode.P)
    assert (raised.value.address, raised.value.error) == fault
    assert mapped.vcpu.cr2 == fault[0]
    assert mapped.memory.read(RAM, 0x10000) == before


def test_user_mode_is_ring_3(mapped: Guest) -> None:
    mapped.vcpu.cpl = 3
    with pytest.raises(GuestFault) as raised:
        mapped.vcpu.load(GVA, 8)
    assert raised.value.error == paging.PageFaultCode.P | paging.PageFaultCode.U
    mapped.memory.store64(mapped.entry(GVA, 1), PAGE | KERNEL | US)
    assert mapped.vcpu.load(GVA, 1) == 0


def test_fetches_heed_nx(mapped: Guest) -> None:
    mapped.vcpu.execute(GVA)
    mapped.map(GVA, PAGE, KERNEL | NX)
    mapped.flush()
    with pytest.raises(GuestFault) as raised:
        mapped.vcpu.execute(GVA)
    assert raised.value.error == paging.PageFaultCode.P | paging.PageFaultCode.I


def test_operands_across_the_ends_of_the_canonical_halves(guest: Guest) -> None:
    top, bottom = 0xFFFF_FFFF_FFFF_F000, 0
    guest.map(top, PAGE, KERNEL)
    guest.map(bottom, SECOND, KERNEL)
    guest.vcpu.store(top + 0xFFE, 4, 0x4433_2211)
    assert guest.memory.read(RAM + PAGE + 0xFFE, 2) + guest.memory.read(RAM + SECOND, 2) == b"\x11\x22\x33\x44"
    guest.map((1 << 47) - 0x1000, PAGE, KERNEL)
    with pytest.raises(GuestFault) as raised:
        guest.vcpu.load((1 << 47) - 2, 4)
    assert raised.value.vector == Vector.GP


@pytest.mark.parametrize(("cpl", "am", "ac"), [(3, 1, 1), (0, 1, 1), (3, 0, 1), (3, 1, 0)])
def test_alignment_check(mapped: Guest, cpl: int, am: int, ac: int) -> None:
    mapped.map(GVA, PAGE, KERNEL | US)
    vcpu = mapped.vcpu
    vcpu.cpl = cpl
    vcpu.cr0 |= paging.CR0_AM * am
    vcpu.regs[Reg.RFLAGS] |= paging.RFLAGS_AC * ac
    assert vcpu.load(GVA + 4, 4) == 0x0706_0504
    if (cpl, am, ac) == (3, 1, 1):
        with pytest.raises(GuestFault) as raised:
            vcpu.load(GVA + 5, 4)
        assert (raised.value.vector, raised.value.error) == (Vector.AC, 0)
    else:
        assert vcpu.load(GVA + 5, 4) == 0x0807_0605
    with pytest.raises(GuestFault) as raised:
        vcpu.load((1 << 47) + 5, 4)
    assert (raised.value.vector, raised.value.error) == (Vector.GP, 0)


@pytest.mark.parametrize("offset", [0, 3, 0xFFC])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_where_no_memory_answers(mapped: Guest, offset: int, size: int) -> None:
    for gpa in (PAGE, SECOND):
        mapped.memory.store64(mapped.ept_leaf(gpa), UNBACKED | gpa | 0x37)
    mapped.memory.snapshot()
    assert mapped.vcpu.load(GVA + offset, size) == (1 << 8 * size) - 1
    mapped.vcpu.store(GVA + offset, size, 0)
    assert not mapped.memory.dirty


# ---------------------------------------------------------- exits by stage 2


@pytest.mark.parametrize("access", [READ, WRITE, EXEC])
def test_a_violation_that_the_handler_mends_is_not_noticed(mapped: Guest, access: int) -> None:
    leaf = mapped.ept_leaf(PAGE)
    entry = mapped.memory.load64(leaf)
    mapped.memory.store64(leaf, 0)
    exits = handled(mapped, lambda vcpu: mapped.memory.store64(leaf, entry))
    vcpu = mapped.vcpu
    if access == READ:
        assert vcpu.load(GVA + 8, 4) == 0x0B0A_0908
    elif access == WRITE:
        vcpu.store(GVA + 8, 4, 0x55)
        assert mapped.memory.load64(RAM + PAGE + 8) == 0x0F0E_0D0C_0000_0055
    else:
        vcpu.execute(GVA + 8)
    (found,) = exits
    assert found == {
        "reason": ExitReason.EPT_VIOLATION,
        "qualification": access | ept.Qualification.LINEAR_VALID | ept.Qualification.FINAL,
        "gpa": PAGE + 8,
        "gva": GVA + 8,
        "operand": GVA + 8,
        "width": 0 if access == EXEC else 4,
        "write": access == WRITE,
        "length": 3,
        "rax": 0x55 if access == WRITE else 0,
    }


def test_a_violation_that_the_handler_emulates(mapped: Guest) -> None:
    mapped.memory.store64(mapped.ept_leaf(PAGE), 0)

    def emulate(vcpu: VCpu) -> None:
        saved = vcpu.vmcs.saved
        saved[Reg.RIP] += vcpu.vmcs.length
        if not vcpu.vmcs.write:
            saved[Reg.RAX] = 0xAAAA_BBBB_CCCC_DDDD

    exits = handled(mapped, emulate)
    assert mapped.vcpu.load(GVA, 2) == 0xDDDD
    assert mapped.vcpu.load(GVA + 1, 4) == 0xCCCC_DDDD
    mapped.vcpu.store(GVA, 8, 0x1234)
    mapped.vcpu.store(GVA + 0xFFF, 8, 0x5678)
    mapped.vcpu.execute(GVA)
    assert mapped.vcpu.regs[Reg.RIP] == 5 * 3
    assert [found["rax"] for found in exits[2:4]] == [0x1234, 0x5678]
    assert mapped.memory.load(RAM + SECOND, 1) == 0


@pytest.mark.parametrize("gva", [GVA, GVA + 0xFFD])
@pytest.mark.parametrize("entry", [0, RAM | 0x32])
def test_a_violation_that_nobody_mends_is_a_machine_check(mapped: Guest, gva: int, entry: int) -> None:
    mapped.memory.store64(mapped.ept_leaf(SECOND if gva & 1 else PAGE), entry)
    exits = handled(mapped, lambda vcpu: None)
    before = mapped.memory.read(RAM, 0x10000)
    with pytest.raises(GuestFault) as raised:
        mapped.vcpu.store(gva, 8, U64)
    assert raised.value.vector == Vector.MC
    assert len(exits) == 4
    assert mapped.memory.read(RAM, 0x10000) == before
    reason = ExitReason.EPT_MISCONFIGURATION if entry else ExitReason.EPT_VIOLATION
    assert {found["reason"] for found in exits} == {reason}


def test_the_second_page_of_an_operand_violates(mapped: Guest) -> None:
    """After the exit both pages are translated again: the handler may have moved the first."""
    leaf = mapped.ept_leaf(SECOND)
    entry = mapped.memory.load64(leaf)
    mapped.memory.store64(leaf, 0)

    def mend(vcpu: VCpu) -> None:
        mapped.memory.store64(leaf, entry)
        mapped.map(GVA, 0xB000, KERNEL)
        mapped.flush()

    exits = handled(mapped, mend)
    mapped.vcpu.store(GVA + 0xFFC, 8, 0x8877_6655_4433_2211)
    (found,) = exits
    assert (found["gpa"], found["gva"], found["operand"], found["width"]) == (SECOND, GVA + 0x1000, GVA + 0xFFC, 8)
    assert mapped.memory.read(RAM + 0xBFFC, 4) == b"\x11\x22\x33\x44"
    assert mapped.memory.read(RAM + SECOND, 4) == b"\x55\x66\x77\x88"
    assert mapped.memory.read(RAM + PAGE + 0xFFC, 4) == b"\xfc\xfd\xfe\xff"


def test_a_violation_on_a_guest_table(mapped: Guest) -> None:
    slot = mapped.entry(GVA, 2)
    mapped.memory.store64(mapped.ept_leaf(slot - RAM), 0)
    exits = handled(mapped, lambda vcpu: setattr(vcpu, "pending_fault", GuestFault(Vector.GP)))
    with pytest.raises(GuestFault) as raised:
        mapped.vcpu.load(GVA, 8)
    assert raised.value.vector == Vector.GP
    (found,) = exits
    assert found["gpa"] == slot - RAM
    assert found["gva"] == GVA
    assert found["qualification"] == READ | ept.Qualification.LINEAR_VALID
