"""A booted world: what the guests find, what they cannot reach, and that it is the same every time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi import boot as layout
from hvfuzz.abi.boot import WORLDS, WORLDS_BY_NAME, World
from hvfuzz.hypervisor.core.boot import CANARY_GFNS, CANARY_OFFSET, boot, guest_address
from hvfuzz.hypervisor.core.hypervisor import CONTROL_CANARY, Hypervisor
from hvfuzz.hypervisor.memory.frames import OWNER_HYPERVISOR, FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.snapshot import Snapshot


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_every_world_boots_and_its_books_balance(world: World, audit: Callable[[Hypervisor], None]) -> None:
    hv = boot(world)
    audit(hv)
    for domain, config in zip(hv.domains, world.domains, strict=True):
        assert (domain.version, domain.privileged) == (config.abi_version, config.privileged)
        assert (len(domain.vcpus), len(domain.pool)) == (config.vcpus, config.pool)
        for number, device in enumerate(hv.machine.devices):
            assert (hv.iommu.domain_of(device.bdf) == domain.id) == (number in config.devices)


def test_a_guest_finds_the_address_space_of_the_seam(hv: Hypervisor) -> None:
    for domain, config in zip(hv.domains, hv.world.domains, strict=True):
        for vcpu in domain.vcpus:
            for gfn in (0, layout.ARGUMENT_GFN + vcpu.index, config.ram_pages - 1):
                vcpu.store(layout.direct_map(gfn << PAGE_SHIFT), 8, 0x1234)
                assert hv.machine.memory.load64(guest_address(domain, gfn)) == 0x1234
            vcpu.execute(vcpu.regs[Reg.RIP])
            vcpu.sysret()
            for page in range(layout.USER_PAGES):
                vcpu.store(layout.USER_BASE + page * PAGE_SIZE, 4, page + 1)
                address = guest_address(domain, layout.USER_GFN + page)
                assert hv.machine.memory.load(address, 4) == page + 1
            with pytest.raises(GuestFault):
                vcpu.load(layout.direct_map(0), 8)
            vcpu.syscall()
            assert vcpu.cpl == 0


def test_memory_that_a_guest_does_not_have_is_a_violation(hv: Hypervisor) -> None:
    vcpu = hv.domains[1].vcpus[0]
    for gfn in (256, 0x7FF, 0xFFF):
        with pytest.raises(GuestFault) as fault:
            vcpu.load(layout.direct_map(gfn << PAGE_SHIFT), 8)
        assert fault.value.vector == Vector.GP


def test_registers_of_an_assigned_device_answer_and_no_others(hv: Hypervisor) -> None:
    owner, other = hv.domains[1].vcpus[0], hv.domains[2].vcpus[0]
    identity = layout.direct_map(layout.MMIO_BASE) + 0x30
    assert owner.load(identity, 8) == hv.machine.devices[0].mmio_read(0x30, 8) != 0
    with pytest.raises(GuestFault):
        other.load(identity, 8)
    with pytest.raises(GuestFault):
        owner.load(identity + layout.MMIO_SIZE, 8)


def test_secrets_are_unlike_and_where_they_belong(hv: Hypervisor) -> None:
    memory = hv.machine.memory
    secrets = {domain.canary for domain in hv.domains} | {hv.canary, hv.allocator.heap_canary(0)}
    assert len(secrets) == len(hv.domains) + 2
    for domain, config in zip(hv.domains, hv.world.domains, strict=True):
        for gfn in (*CANARY_GFNS, config.ram_pages - 1):
            assert memory.load64(guest_address(domain, gfn, CANARY_OFFSET)) == domain.canary
    assert memory.load64(CONTROL_CANARY) == hv.canary
    # Each secret lies in frames of its owner only.
    for hfn in range(memory.frames):
        owner = hv.frames.owner(hfn)
        words = memory.words[hfn * 512 : hfn * 512 + 512]
        for word in secrets.intersection(words):
            expected = hv.domains[owner].canary if owner < len(hv.domains) else None
            assert owner == OWNER_HYPERVISOR or word == expected


def test_booting_is_deterministic_and_only_secrets_depend_on_the_secret() -> None:
    first, second = boot(WORLDS[0]), boot(WORLDS[0])
    size = first.machine.memory.size
    assert first.machine.memory.read(0, size) == second.machine.memory.read(0, size)
    other = boot(WORLDS[0], secret=7)
    differing = [
        index
        for index, (a, b) in enumerate(zip(first.machine.memory.words, other.machine.memory.words, strict=True))
        if a != b
    ]
    heap = {first.allocator.heap_canary(number) for number in range(first.allocator.heap_allocations)}
    secrets = {domain.canary for domain in first.domains} | {first.canary} | heap
    assert differing
    assert {first.machine.memory.words[index] for index in differing} == secrets


def test_a_snapshot_brings_the_booted_world_back(hv: Hypervisor, guest_call: Callable[..., object]) -> None:
    before = hv.machine.memory.read(0, hv.machine.memory.size)
    snapshot = Snapshot.take(hv.machine, hv)
    vcpu = hv.domains[1].vcpus[0]
    guest_call(hv, vcpu, "memory.populate", first=0x200, count=300)
    guest_call(hv, vcpu, "device.dma_map", iova=0, gfn=0x200, count=2, rights=3)
    guest_call(hv, vcpu, "memory.decrease", first=0x80, count=3)
    snapshot.restore()
    assert hv.machine.memory.read(0, hv.machine.memory.size) == before
    assert hv.allocator.available == boot(WORLDS_BY_NAME["pair"]).allocator.available


def test_a_large_memory_boots_as_well(audit: Callable[[Hypervisor], None]) -> None:
    hv = boot(WORLDS[0], memory_size=64 << 20)
    assert hv.frames.count == 16384
    assert hv.frames.frame(16383).state == FrameState.FREE
    audit(hv)


def test_a_snapshot_holds_what_a_guest_made_of_its_processor(hv: Hypervisor) -> None:
    """MSRs, the time-stamp counter's offset, the APIC and its timer, the count of clock reads."""
    snapshot = Snapshot.take(hv.machine, hv)
    vcpu = hv.domains[1].vcpus[0]

    def state() -> list[object]:
        saved = [
            (other.msrs.copy(), other.vmcs.tsc_offset, other.vmcs.msr_bitmap, other.cpl) for other in hv.machine.vcpus
        ]
        apics = [hv.machine.memory.read(base, 0x400) for base in hv.apics]
        return [saved, apics, dict(hv.apic_timers), [(each.clock_window, each.clock_reads) for each in hv.domains]]

    before = state()
    for index, value in (
        (0x10, 5),
        (0x80F, 0x1FF),
        (0x83E, 0xB),
        (0x838, 1 << 20),
        (0xC000_0101, 0x1000),
        (0x83F, 0x41),
    ):
        vcpu.wrmsr(index, value)
    vcpu.swapgs()
    vcpu.rdtsc()
    after = state()
    assert all(one != other for one, other in zip(before, after, strict=True))
    snapshot.restore()
    assert state() == before
