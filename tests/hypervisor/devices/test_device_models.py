"""The device models of the hypervisor: the floppy controller's FIFO, and the I/O APIC's index and window, the timer."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import DIRECT_MAP, FIFO_PORT, IOAPIC, MMIO_BASE, MMIO_SIZE, TIMER, WORLDS
from hvfuzz.abi.limits import CLOCK_TICK, PORTS
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.hypervisor import MODELS, Hypervisor
from hvfuzz.hypervisor.devices import all_models
from hvfuzz.hypervisor.devices.device_model import AREA as AREA_SIZE
from hvfuzz.hypervisor.devices.device_model import Site, memory_offsets
from hvfuzz.hypervisor.devices.fdc import (
    DRIVE_SPECIFICATION,
    NOT_READY,
    PARAMETERS,
    READ_ID,
    SIZE,
    WRITE_DATA,
    Fifo,
    Phase,
)
from hvfuzz.hypervisor.devices.ioapic import ENTRY, ID_BITS, MASKED, PINS, SELECT, VERSION_VALUE, WINDOW, IoApic
from hvfuzz.hypervisor.devices.timer import Register, Timer
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, U64, Gva
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import RAX
from hvfuzz.oracles.contract.spec.platform.timer import TimerModel
from hvfuzz.oracles.exits.models.fdc import Floppy
from hvfuzz.oracles.exits.models.ioapic import Interrupts

DATA, STATUS = FIFO_PORT + 5, FIFO_PORT + 4
HOST = boot(WORLDS[3])
AREA = HOST.model_memory(1)
FIFO, ENTRIES = (memory_offsets(all_models.MODELS)[name] for name in ("fdc", "ioapic"))


def site(memory: int = 0, domain: int = 1) -> Site:
    """Where a model of the test's own works: its host memory begins at `memory`."""
    return Site(HOST.host, Clock(), domain, memory, HOST, {})


def surroundings(hv: Hypervisor, first: int, size: int) -> bytes:
    """The page of the bounce buffer, without `size` bytes from `first` on."""
    page = hv.bounce & ~PAGE_MASK
    return hv.host.read(page, first - page) + hv.host.read(first + size, page + PAGE_SIZE - first - size)


def test_every_world_has_room_for_its_models() -> None:
    for world in WORLDS:
        end = MODELS + len(world.domains) * AREA_SIZE
        assert (boot(world).bounce & PAGE_MASK) + end <= PAGE_SIZE
    assert FIFO + SIZE < ENTRIES
    assert ENTRIES + PINS * ENTRY < AREA_SIZE, "there is a secret between any two"


class TestFifo:
    """Commands, parameters, data, results."""

    @pytest.fixture
    def fifo(self) -> Fifo:
        return Fifo(site(AREA + FIFO))

    @staticmethod
    def send(fifo: Fifo, *data: int) -> None:
        for byte in data:
            fifo.port_write(5, 1, byte)

    def test_results_come_in_order_and_end(self, fifo: Fifo) -> None:
        self.send(fifo, 0x0F, 0, 7, READ_ID, 0)
        assert fifo.port_read(4, 1) == 0xD0
        assert [fifo.port_read(5, 1) for _ in range(8)] == [NOT_READY, 0, 0, 7, 0, 0, 2, 0]
        assert fifo.port_read(4, 1) == 0x80

    def test_a_sector_goes_through_the_fifo(self, fifo: Fifo) -> None:
        self.send(fifo, WRITE_DATA, *range(8))
        assert fifo.phase is Phase.DATA
        self.send(fifo, *range(SIZE - 1))
        assert fifo.phase is Phase.DATA
        self.send(fifo, 0xFF)
        assert fifo.port_read(5, 1) == NOT_READY

    def test_parameters_without_an_end_are_lost(self, fifo: Fifo) -> None:
        """CVE-2015-3456."""
        before = surroundings(HOST, fifo.buffer, SIZE)
        self.send(fifo, DRIVE_SPECIFICATION, *[0x7F] * 1000)
        assert (fifo.position, fifo.phase) == (SIZE, Phase.COMMAND)
        assert surroundings(HOST, fifo.buffer, SIZE) == before
        self.send(fifo, 0x80)
        assert fifo.position == 0

    def test_reset_forgets_the_command(self, fifo: Fifo) -> None:
        self.send(fifo, WRITE_DATA, 1, 2)
        fifo.port_write(2, 1, 0)
        assert fifo.port_read(4, 1) == 0
        self.send(fifo, 8)
        fifo.port_write(2, 1, 0x0C)
        assert (fifo.port_read(2, 1), fifo.port_read(4, 1)) == (0x0C, 0x80)

    @given(
        accesses=st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from((2, 4, 5, 5, 5, 5, 7)),
                st.sampled_from((1, 1, 1, 2, 4)),
                st.sampled_from((*PARAMETERS, DRIVE_SPECIFICATION)) | st.integers(0, 255),
            ),
            max_size=120,
        )
    )
    def test_it_is_what_the_data_sheet_says(self, accesses: list[tuple[bool, int, int, int]]) -> None:
        """Read by other eyes: the oracle's. And nothing beside the FIFO is written, whatever comes."""
        fifo, floppy = Fifo(site(AREA + FIFO)), Floppy(Clock())
        before = surroundings(HOST, fifo.buffer, SIZE)
        for write, offset, width, value in accesses:
            if write:
                fifo.port_write(offset, width, value)
                for at in range(width):
                    floppy.write(offset + at, value >> 8 * at & 0xFF)
            else:
                read = fifo.port_read(offset, width)
                assert read == sum(floppy.read(offset + at) << 8 * at for at in range(width))
        assert HOST.host.read(fifo.buffer, SIZE) == floppy.data
        assert surroundings(HOST, fifo.buffer, SIZE) == before

    def test_each_domain_has_one(self, hv: Hypervisor) -> None:
        first, second = hv.domains[1].vcpus[0], hv.domains[2].vcpus[0]
        first.out(DATA, 1, 0x10)
        second.inp(STATUS, 1)
        assert second.regs[RAX] & 0xFF == 0x80
        first.inp(STATUS, 1)
        assert first.regs[RAX] & 0xFF == 0xD0


class TestIoApic:
    """The index selects what the window shows."""

    @pytest.fixture
    def ioapic(self) -> IoApic:
        return IoApic(site(AREA + ENTRIES))

    @pytest.mark.parametrize(
        ("index", "power_on", "all_ones"),
        [
            (0, 0, ID_BITS),
            (1, VERSION_VALUE, VERSION_VALUE),
            (2, 0, 0),
            (0x0F, 0, 0),
            (0x10, MASKED, 0x1_AFFF),
            (0x1F, 0, 0xFF00_0000),
            (0x20, 0, 0),
            (0xFF, 0, 0),
        ],
    )
    def test_registers(self, ioapic: IoApic, index: int, power_on: int, all_ones: int) -> None:
        ioapic.mmio_write(SELECT, 4, index)
        assert ioapic.mmio_read(WINDOW, 4) == power_on
        ioapic.mmio_write(WINDOW, 4, 0xFFFF_FFFF)
        assert ioapic.mmio_read(WINDOW, 4) == all_ones

    @given(
        accesses=st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from((SELECT, SELECT, WINDOW, WINDOW, 0)),
                st.sampled_from((1, 2, 4, 8)),
                st.integers(0, 0x2F) | st.integers(0, (1 << 64) - 1),
            ),
            max_size=60,
        )
    )
    def test_it_is_what_the_data_sheet_says(self, accesses: list[tuple[bool, int, int, int]]) -> None:
        ioapic, model = IoApic(site(AREA + ENTRIES)), Interrupts(Clock())
        before = surroundings(HOST, ioapic.entries, PINS * ENTRY)
        for write, offset, width, value in accesses:
            mask = (1 << 8 * width) - 1
            if write:
                ioapic.mmio_write(offset, width, value)
                model.write(offset, value & mask & 0xFFFF_FFFF)
            else:
                assert ioapic.mmio_read(offset, width) == model.read(offset) & mask
        assert [HOST.host.read64(ioapic.entries + pin * ENTRY) for pin in range(PINS)] == model.entries
        assert surroundings(HOST, ioapic.entries, PINS * ENTRY) == before

    def test_each_domain_has_one(self, hv: Hypervisor) -> None:
        window = DIRECT_MAP + MMIO_BASE + IOAPIC * MMIO_SIZE
        first, second = hv.domains[1].vcpus[0], hv.domains[2].vcpus[0]
        first.store(Gva(window + SELECT), 4, 0x10)
        first.store(Gva(window + WINDOW), 4, 0x31)
        assert first.load(Gva(window + WINDOW), 4) == 0x31
        assert second.load(Gva(window + SELECT), 4) == 0
        assert hv.host.read64(hv.model_memory(2) + ENTRIES) == MASKED


class TestTimer:
    """Deadlines in whole ticks; events on a port."""

    PAGE = DIRECT_MAP + MMIO_BASE + TIMER * MMIO_SIZE

    def arm(self, hv: Hypervisor, delay: int, period: int = 0, port: int = 0, domain: int = 1) -> None:
        for register, value in ((Register.PORT, port), (Register.PERIOD, period), (Register.DELAY, delay)):
            hv.domains[domain].vcpus[0].store(Gva(self.PAGE + register), 8, value)

    @staticmethod
    def exit_at(hv: Hypervisor, cycles: int) -> None:
        """Let time pass until then, and a guest exit."""
        hv.machine.clock.cycles = cycles
        hv.domains[0].vcpus[0].cpuid(0)

    @pytest.mark.parametrize(("delay", "ticks"), [(1, 1), (CLOCK_TICK, 1), (CLOCK_TICK + 1, 2)])
    def test_it_expires_at_a_tick_and_not_before(self, hv: Hypervisor, delay: int, ticks: int) -> None:
        hv.machine.clock.cycles = 100 * CLOCK_TICK + 17
        self.arm(hv, delay)
        timer = hv.domains[1].devices.by_name["timer"]
        assert timer.deadline == (100 + ticks) * CLOCK_TICK
        self.exit_at(hv, timer.deadline - 2 * Cost.VMEXIT)
        assert (timer.expired, list(hv.timers)) == (0, [1])
        self.exit_at(hv, timer.deadline)
        assert (timer.expired, timer.delay, list(hv.timers)) == (1, 0, [])

    def test_what_passed_unseen_is_counted(self, hv: Hypervisor) -> None:
        self.arm(hv, 1, period=CLOCK_TICK)
        timer = hv.domains[1].devices.by_name["timer"]
        first = timer.deadline
        self.exit_at(hv, first + 10 * CLOCK_TICK)
        assert (timer.expired, timer.deadline) == (11, first + 11 * CLOCK_TICK)
        self.exit_at(hv, timer.deadline)
        assert timer.expired == 12

    def test_an_event_comes_in_and_wakes(self, hv: Hypervisor, guest_call: Callable[..., tuple[Status, int]]) -> None:
        vcpu = hv.domains[1].vcpus[0]
        assert guest_call(hv, vcpu, "event.alloc", remote=2) == (Status.OK, 0)
        self.arm(hv, 1)
        assert guest_call(hv, vcpu, "sched.block") == (Status.OK, 0)
        self.exit_at(hv, hv.domains[1].devices.by_name["timer"].deadline)
        assert vcpu.runnable == RunState.RUNNABLE
        entry = event_channels.lookup(hv.domains[1], 0)
        assert entry is not None
        assert entry.pending

    @pytest.mark.parametrize("port", [0, 5, PORTS, U64])
    def test_a_port_that_there_is_not(self, hv: Hypervisor, port: int) -> None:
        self.arm(hv, 1, port=port)
        self.exit_at(hv, hv.domains[1].devices.by_name["timer"].deadline)
        assert hv.domains[1].devices.by_name["timer"].expired == 1

    def test_it_can_be_disarmed(self, hv: Hypervisor) -> None:
        self.arm(hv, 10 * CLOCK_TICK)
        self.arm(hv, 0)
        assert hv.timers == {}
        self.exit_at(hv, 100 * CLOCK_TICK)
        assert hv.domains[1].devices.by_name["timer"].expired == 0

    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from(tuple(Register)), st.integers(0, U64) | st.integers(0, 20_000), st.integers(0, 1 << 20)
            ),
            max_size=20,
        )
    )
    def test_it_is_what_the_specification_says(self, steps: list[tuple[Register, int, int]]) -> None:
        place, model = site(), TimerModel()
        clock, armed, timer = place.clock, place.armed, Timer(place)
        for register, value, cycles in steps:
            timer.mmio_write(register, 8, value)
            model.write(register, 8, value, clock.cycles)
            clock.cycles += cycles
            due = 1 in armed and timer.deadline <= clock.cycles
            if due:
                timer.expire()
            assert model.due(clock.cycles) is due
            assert [timer.mmio_read(each, 8) for each in Register] == [model.read(each, 8) for each in Register]
