"""The order of dispatch, what a refusal leaves alone, what an observer is told, and where long calls are preempted."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_START, PT_KERNEL_GFN, argument_page
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.effects import Step
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.core.work_quota import PREEMPTION_QUOTA
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.registers import RAX, RIP, Reg
from hvfuzz.machine.cpu.vcpu import VCpu

VERSION, LIMITS, POPULATE, DECREASE, EXCHANGE = 0x01, 0x03, 0x10, 0x11, 0x13
YIELD, ASSIGN = 0x40, 0x60
UNMAPPED = DIRECT_MAP + 0x300 * PAGE_SIZE
ARGS = argument_page(0)


class Log(Observer):
    """Notes calls, steps and preemption points, in order."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        self.seen.append(("started", declaration and declaration.name, args))

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Status, result: int, reason: str) -> None:
        self.seen.append(("finished", declaration and declaration.name, args, status, result, reason))

    def step(self, step: Step) -> None:
        self.seen.append(("step",))

    def stepped(self, step: Step) -> None:
        self.seen.append(("stepped",))

    def preemption_point(self) -> None:
        self.seen.append(("preemption",))


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


def call(hv: Hypervisor, vcpu: VCpu, number: int, data: bytes, pointer: int = ARGS) -> tuple[Status, int]:
    """VMCALL with `data` as the struct in the argument page (that `pointer` need not point to)."""
    hv.machine.fetches.reset()
    hv.machine.memory.write(guest_address(hv.domains[vcpu.domain], 0x10 + vcpu.index), data.ljust(0x200, b"\0"))
    vcpu.regs[RAX], vcpu.regs[Reg.RDI] = number, pointer
    vcpu.vmcall()
    status = Status.from_word(vcpu.regs[RAX])
    assert status is not None
    return status, vcpu.regs[Reg.RDX]


def header(size: int, version: int = 2, reserved: int = 0) -> bytes:
    return struct.pack("<HHI", size, version, reserved)


def test_a_call_leaves_status_and_result_and_steps_over_the_instruction(hv: Hypervisor, vcpu: VCpu) -> None:
    before = vcpu.regs.copy()
    assert call(hv, vcpu, LIMITS, header(16) + struct.pack("<Q", 6)) == (Status.OK, 16)
    assert vcpu.regs[RIP] == before[RIP] + 3
    kept = [reg for reg in range(len(before)) if reg not in (RAX, Reg.RDX, Reg.RDI, RIP)]
    assert [vcpu.regs[reg] for reg in kept] == [before[reg] for reg in kept]
    assert call(hv, vcpu, LIMITS, header(16) + struct.pack("<Q", 99)) == (Status.INVALID, 0)
    assert vcpu.regs[RAX] == (1 << 64) - 2


# One row a check, in the order of the contract: what fails from this row on down would fail too, unless repaired.
BAD_TAIL = header(256, 2) + bytes(8) + b"\xff" * 240
ORDER = [
    ("user mode", 0x999, BAD_TAIL, UNMAPPED, Status.NOT_PERMITTED, 0, "called from user mode"),
    ("unknown", 0x999, BAD_TAIL, UNMAPPED, Status.NO_CALL, 0, "unknown number"),
    ("newer call", EXCHANGE, BAD_TAIL, UNMAPPED, Status.NO_CALL, 0, "newer than the domain"),
    ("privilege", ASSIGN, BAD_TAIL, UNMAPPED, Status.NOT_PERMITTED, 0, "control domain only"),
    ("header", VERSION, BAD_TAIL, UNMAPPED, Status.FAULT, 1, "header unreadable"),
    ("hole", VERSION, BAD_TAIL, HYPERVISOR_HOLE_START, Status.FAULT, 0, "header unreadable"),
    ("size 7", VERSION, header(7, 9, 1), ARGS, Status.INVALID, 1, "header"),
    ("size 257", VERSION, header(257, 9, 1), ARGS, Status.INVALID, 1, "header"),
    ("reserved", VERSION, header(16, 9, 1), ARGS, Status.INVALID, 1, "header"),
    ("version 0", VERSION, header(16, 0), ARGS, Status.INVALID, 1, "header"),
    ("version 3", VERSION, header(256, 3), ARGS, Status.TOO_NEW, 1, "version of the struct"),
    ("body", VERSION, header(256), UNMAPPED - 8, Status.FAULT, 2, "struct unreadable"),
    ("tail", VERSION, BAD_TAIL, ARGS, Status.TOO_NEW, 2, "struct says more than is known"),
    ("check", VERSION, header(16), ARGS, Status.INVALID, 2, "version zero"),
    ("none", VERSION, header(16) + b"\2", ARGS, Status.OK, 2, ""),
]


@pytest.mark.parametrize(("name", "number", "data", "pointer", "status", "fetches", "reason"), ORDER)
def test_the_first_failing_check_decides(
    hv: Hypervisor,
    vcpu: VCpu,
    name: str,
    number: int,
    data: bytes,
    pointer: int,
    status: Status,
    fetches: int,
    reason: str,
) -> None:
    domain = hv.domains[1]
    domain.version = 1 if name == "newer call" else 2
    vcpu.cpl = 3 if name == "user mode" else 0
    if pointer == UNMAPPED - 8:  # the last 8 bytes before a page that is not there
        pointer = DIRECT_MAP + 0x41 * PAGE_SIZE - 8
        hv.machine.memory.write(guest_address(domain, 0x40, PAGE_SIZE - 8), data)
        hv.machine.memory.store64(guest_address(domain, PT_KERNEL_GFN, 8 * 0x41), 0)
    hv.observer = log = Log()
    assert call(hv, vcpu, number, data, pointer)[0] == status
    assert hv.machine.fetches.count == fetches
    started, *_, finished = log.seen
    declaration = ABI.by_number.get(number)
    assert started[1] == finished[1] == (declaration and declaration.name)
    assert finished[3:] == (status, 2 if status is Status.OK else 0, reason)
    decoded = name in ("check", "none")
    assert (started[2] is not None) == (finished[2] is not None) == decoded
    assert (("step",) in log.seen) == (status is Status.OK)


def test_a_shorter_struct_is_zero_extended_and_a_longer_one_may_end_in_zeroes(hv: Hypervisor, vcpu: VCpu) -> None:
    assert call(hv, vcpu, LIMITS, header(8) + b"\xff" * 8) == (Status.OK, 64)
    assert hv.machine.fetches.count == 1
    assert call(hv, vcpu, LIMITS, header(9) + b"\6" + b"\xff" * 8) == (Status.OK, 16)
    assert call(hv, vcpu, LIMITS, header(256) + b"\6") == (Status.OK, 16)
    assert call(hv, vcpu, LIMITS, header(17) + b"\6" + bytes(7) + b"\1") == (Status.TOO_NEW, 0)
    assert call(hv, vcpu, LIMITS, header(16) + b"\6" + bytes(3) + b"pad!") == (Status.OK, 16)


def test_an_old_domain_calls_with_old_structs(hv: Hypervisor, vcpu: VCpu) -> None:
    hv.domains[1].version = 1
    populate = struct.pack("<QIB", 0x200, 1, 0)
    assert call(hv, vcpu, POPULATE, header(24, 1) + populate) == (Status.OK, 1)
    assert call(hv, vcpu, POPULATE, header(24, 2) + populate) == (Status.TOO_NEW, 0)


def test_a_struct_may_cross_a_page(hv: Hypervisor, vcpu: VCpu) -> None:
    data = header(16) + struct.pack("<Q", 6)
    for split in range(1, 16):
        hv.machine.memory.write(guest_address(hv.domains[1], 0x40, PAGE_SIZE - split), data[:split])
        hv.machine.memory.write(guest_address(hv.domains[1], 0x41), data[split:])
        assert call(hv, vcpu, LIMITS, b"", DIRECT_MAP + 0x41 * PAGE_SIZE - split) == (Status.OK, 16)


def test_the_struct_is_decoded_from_the_copy(hv: Hypervisor, vcpu: VCpu) -> None:
    """The header is fetched once: a racing vCPU that enlarges the size between the fetches is too late."""
    page = guest_address(hv.domains[1], 0x10)
    hv.machine.memory.write(page, header(9) + b"\6" + b"\xff" * 7)
    hv.machine.fetches.reset()
    hv.machine.fetches.arm(1, lambda: hv.machine.memory.write(page, header(16)))
    vcpu.regs[RAX], vcpu.regs[Reg.RDI] = LIMITS, ARGS
    vcpu.vmcall()
    assert (vcpu.regs[RAX], vcpu.regs[Reg.RDX]) == (0, 16)


def populate(first: int, count: int, order: int = 0) -> bytes:
    return header(24) + struct.pack("<QIBB", first, count, order, 0)


@pytest.mark.parametrize(("count", "points"), [(1, 0), (64, 0), (65, 1), (128, 1), (129, 2), (192, 2)])
def test_a_long_call_is_preempted_after_each_quota(hv: Hypervisor, vcpu: VCpu, count: int, points: int) -> None:
    hv.observer = log = Log()
    decrease = header(24) + struct.pack("<QII", 0x40, count, 0)
    assert call(hv, vcpu, DECREASE, decrease) == (Status.OK, count)
    assert log.seen.count(("preemption",)) == points
    assert log.seen.count(("step",)) == log.seen.count(("stepped",)) == count
    text = "".join({"step": "s", "stepped": "d", "preemption": "p"}.get(entry[0], "") for entry in log.seen)
    assert text.replace("sd", ".").strip("p") == text.replace("sd", ".")
    assert all(len(run) <= PREEMPTION_QUOTA for run in text.replace("sd", ".").split("p"))


def test_a_preemption_point_costs_an_exit_and_an_entry(hv: Hypervisor) -> None:
    before = hv.machine.clock.cycles
    dispatch.preempt(hv)
    assert hv.machine.clock.cycles - before == Cost.VMEXIT + Cost.VMENTRY


def test_a_refused_call_changes_nothing(hv: Hypervisor, vcpu: VCpu) -> None:
    call(hv, vcpu, POPULATE, b"")  # the accesses of a first call set flags in the guest's page tables
    memory = hv.machine.memory
    before = memory.read(0, memory.size)
    assert call(hv, vcpu, POPULATE, populate(0, 64))[0] is Status.EXISTS
    after = memory.read(0, memory.size)
    page = guest_address(hv.domains[1], 0x10)
    assert before[:page] == after[:page]
    assert before[page + PAGE_SIZE :] == after[page + PAGE_SIZE :]


def test_every_declared_call_can_be_made_with_an_empty_struct(hv: Hypervisor) -> None:
    """Whatever the status, it is one that the call declares, and no call stops the host."""
    for declaration in ABI.calls:
        status, _ = call(hv, hv.domains[0].vcpus[0], declaration.number, header(8))
        assert status in (Status.OK, *declaration.errors), declaration
        hv.domains[0].vcpus[0].runnable = 0
