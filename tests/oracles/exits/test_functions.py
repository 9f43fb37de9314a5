"""The second models of the PCI functions agree with the functions, whatever a driver does, and see what is wrong."""

from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import DEVICES, VIRTIO_BLK, VIRTIO_NET, WORLDS_BY_NAME
from hvfuzz.guest.format.text import parse
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.devices import device_model
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.devices import dma_engine, pci_function, register_windows
from hvfuzz.machine.devices.virtio import blk, net, register_map, virtqueue
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE
from hvfuzz.oracles.exits.functions import (
    copy_engine,
    dma_path,
    second_function,
    virtio_card,
    virtio_disk,
    virtio_transport,
    virtqueues,
)
from hvfuzz.oracles.exits.functions.device_activity import DeviceActivity
from hvfuzz.oracles.exits.model_comparison import ALIGNMENT, AREA, FIRST_AREA
from hvfuzz.oracles.scene import device_windows
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

Register = register_map.Register
HYPERVISOR = boot(WORLDS_BY_NAME["virtio"])
MACHINE = HYPERVISOR.machine
PAGES = 4
VALUES = st.sampled_from((0, 1, 2, 3, 4, 8, 0xB, 0xF, 16, 17, 64, 0xFF, 1 << 32, 5 << 28, 1 << 33, U64))
PLACES = st.sampled_from((0, 0x100, 0x200, 0x300, 0xFF8, 0x1000, 0x2FF0, 0x4000))
OFFSETS = st.sampled_from(tuple(Register)) | st.sampled_from(tuple(dma_engine.Register)) | st.integers(0, 0xFFF)
ACCESSES = st.lists(
    st.tuples(OFFSETS, st.sampled_from((1, 2, 4, 8, 8)), VALUES | PLACES | st.integers(0, U64)), max_size=30
)


class Watched:
    """The functions of one machine with their second models beside them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.found: list[str] = []
        scene = SimpleNamespace(
            machine=MACHINE, words=MACHINE.memory.words, memory_size=MACHINE.memory.size, describe=hex
        )
        self.activity = DeviceActivity(scene, lambda rule, text: self.found.append(f"{rule}: {text}"))  # type: ignore[arg-type]
        for device in MACHINE.devices:
            device.reset()
        self.activity.attach()
        MACHINE.access_observer = self.activity.accessed

    def write(self, offset: int, size: int, value: int) -> None:
        function = self.activity.bus.functions[self.number]
        self.activity.begin(function, partial(function.write, offset, size, value & (1 << 8 * size) - 1))
        MACHINE.devices[self.number].mmio_write(offset, size, value)
        self.activity.end("device", "write")

    def wake(self, number: int) -> None:
        """A function acts by itself, perhaps while a write to another one, or to itself, is announced."""
        self.activity.woken(number)
        MACHINE.devices[number].wake()
        self.activity.rested("wake")


@pytest.mark.parametrize("number", range(DEVICES))
@given(accesses=ACCESSES)
def test_model_and_function_agree(number: int, accesses: list[tuple[int, int, int]]) -> None:
    """On all registers, as a load shows them, and on each access by DMA, also when the function acts by itself."""
    watched = Watched(number)
    for offset, size, value in accesses:
        watched.write(offset, size, value)
        if value & 1:
            watched.wake(number)
        for word in range(0, 0x110, 8):
            wanted = MACHINE.devices[number].mmio_read(word, 8)
            assert watched.activity.bus.functions[number].read(word, 8) == wanted
    assert watched.found == []


@pytest.mark.parametrize("woken", [0, 1])
def test_what_is_announced_waits_for_a_function_that_acts_by_itself(woken: int) -> None:
    """The copy of function 0 that a write starts reads what the copy of the woken one has written."""
    watched = Watched(0)
    for number in (0, 1):
        watched.number = number
        for register, value in ((dma_engine.Register.DST, 0x100), (dma_engine.Register.LENGTH, 8)):
            watched.write(register, 8, value)
    function, control = watched.activity.bus.functions[0], dma_engine.Register.CONTROL
    watched.activity.begin(function, partial(function.write, control, 8, dma_engine.START))
    watched.wake(woken)
    MACHINE.devices[0].mmio_write(control, 8, dma_engine.START)
    watched.activity.end("device", "write")
    assert watched.found == []


@pytest.mark.parametrize("fault", ["never wakes", "copies more"])
def test_a_function_that_acts_wrongly_by_itself_is_seen(fault: str) -> None:
    watched = Watched(0)
    watched.write(dma_engine.Register.LENGTH, 8, 8)
    watched.activity.woken(0)
    if fault == "copies more":
        MACHINE.devices[0].registers[dma_engine.Register.LENGTH >> 3] = 16
        MACHINE.devices[0].wake()
    watched.activity.rested("wake")
    assert watched.found[0].startswith("device: wake: ")


DISK = """\
# hvp 1
world virtio
device.dma_map(dom1, iova=0x40000, gfn=0x40, count=2, rights=R|W)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0x100000000)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=11)
mmio_write(dom1, device=2, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom1, device=2, register=QUEUE_DRIVER, size=8, value=0x40100)
mmio_write(dom1, device=2, register=QUEUE_DEVICE, size=8, value=0x40200)
mmio_write(dom1, device=2, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=15)
store(dom1, gva=DIRECT+0x40300, size=8, value=8)
store(dom1, gva=DIRECT+0x40000, size=8, value=0x40300)
store(dom1, gva=DIRECT+0x40008, size=8, value=0x1000100000010)
store(dom1, gva=DIRECT+0x40010, size=8, value={target})
store(dom1, gva=DIRECT+0x40018, size=8, value=0x2000300000014)
store(dom1, gva=DIRECT+0x40020, size=8, value=0x41000)
store(dom1, gva=DIRECT+0x40028, size=8, value=0x200000001)
store(dom1, gva=DIRECT+0x40100, size=8, value=0x20000)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
mmio_read(dom1, device=2, register=DEVICE_STATUS, size=8)
"""


@pytest.mark.parametrize("target", ["0x40000", "0x40100", "0x40200", "0x3fff8"])
def test_a_device_that_is_led_over_its_own_rings_is_followed(target: str) -> None:
    """The name of the disk becomes descriptors, or an index: the second chain is whatever that says."""
    with EmulatedTarget() as emulated:
        run = emulated.run(parse(DISK.format(target=target), emulated.catalogue))
    assert run.findings == ()
    assert run.trace.stopped == ""


def test_the_layouts_are_those_of_the_machine() -> None:
    """The models have constants of their own; where both name the same layout they agree."""
    window, queue, header = virtio_transport, virtqueues, (virtio_transport.WINDOW, virtqueues.WORDS)
    assert header == (register_map.WINDOW_WORDS, virtqueue.QUEUE_WORDS)
    names = ("ERROR", "ID", "DEVICE_FEATURES", "DRIVER_FEATURES", "QUEUE_SELECT", "QUEUE_SIZE", "QUEUE_ENABLE")
    names += ("NOTIFY", "DEVICE_STATUS", "ISR", "ACK", "GENERATION", "LOG_BASE", "CONFIG")
    for name in names:
        assert 8 * getattr(window, name) == Register[name], name
    mine = (queue.SIZE, queue.DESCRIPTORS, queue.AVAILABLE, queue.USED, queue.ENABLED, queue.TAKEN, queue.RETURNED)
    theirs = (virtqueue.SIZE, virtqueue.DESC, virtqueue.DRIVER, virtqueue.DEVICE, virtqueue.ENABLE)
    assert mine == (*theirs, virtqueue.NEXT_AVAILABLE, virtqueue.NEXT_USED)
    assert virtqueues.MOST == virtqueue.MAX_SIZE
    assert (virtio_disk.CAPACITY, virtio_disk.SECTOR, virtio_disk.NAME) == (blk.SECTORS, blk.SECTOR, blk.SERIAL)
    assert (virtio_card.LONGEST, virtio_card.ONE_BUFFER) == (net.MAX_FRAME, net.RECEIVED)
    assert (copy_engine.MOST, copy_engine.IDENTITY) == (dma_engine.MAX_LENGTH, dma_engine.DMA_ENGINE_ID)
    assert second_function.WIDTHS == pci_function.ACCESS_SIZES
    assert device_windows.FIRST_WINDOW == register_windows.REGISTERS_BASE
    assert device_windows.WINDOWS_END == register_windows.REGISTERS_LIMIT
    assert dma_path.INTERRUPTS == INTERRUPT_RANGE
    assert (AREA, ALIGNMENT) == (device_model.AREA, device_model.ALIGNMENT)
    assert HYPERVISOR.bounce + FIRST_AREA == HYPERVISOR.model_memory(0)


@pytest.mark.parametrize("number", [VIRTIO_BLK, VIRTIO_NET])
def test_a_register_that_changes_by_itself_is_seen(number: int) -> None:
    watched = Watched(number)
    MACHINE.devices[number].registers[Register.LOG_BASE >> 3] = 1
    watched.activity.compare("others", "here")
    assert watched.found == [
        f"others: here: register word 21 (0xa8) of {MACHINE.devices[number].name} is 0x1, expected 0x0"
    ]


def test_a_transfer_becomes_aligned_accesses() -> None:
    for offset in range(16):
        for size in range(1, 24):
            wanted = list(register_windows.aligned_accesses(offset, size))
            assert list(second_function.aligned(offset, size)) == wanted
