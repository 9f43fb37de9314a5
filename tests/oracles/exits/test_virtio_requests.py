"""What is expected of virtio devices: the model of their registers, and the scope of a notification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import VIRTIO_BLK, VIRTIO_NET, WORLDS_BY_NAME
from hvfuzz.guest.format.text import parse
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.devices.virtio.register_map import Register
from hvfuzz.oracles.exits.virtio_requests import written
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

MACHINE = boot(WORLDS_BY_NAME["virtio"]).machine
VALUES = st.sampled_from((0, 1, 2, 3, 4, 8, 0xB, 0xF, 16, 17, 64, 0xFF, 1 << 32, 5 << 28, 1 << 33, U64))
OFFSETS = st.sampled_from(tuple(Register)) | st.integers(0, 0xFFF)
ACCESSES = st.lists(st.tuples(OFFSETS, st.sampled_from((1, 2, 4, 8)), VALUES | st.integers(0, U64)), max_size=30)


@pytest.mark.parametrize("number", [VIRTIO_BLK, VIRTIO_NET])
@given(accesses=ACCESSES)
def test_the_model_and_the_device_agree(number: int, accesses: list[tuple[int, int, int]]) -> None:
    """Whatever is written, the device's registers are what the model expects, where it expects something."""
    device = MACHINE.devices[number]
    device.reset()
    power_on = list(device.registers)
    for offset, size, value in accesses:
        before = list(device.registers)
        device.mmio_write(offset, size, value)
        expected = written(before, power_on, offset, size, value)
        assert [then if then is None else now for now, then in zip(device.registers, expected, strict=True)] == expected


def test_a_notification_leaves_open_what_it_may_change() -> None:
    device = MACHINE.devices[VIRTIO_NET]
    device.reset()
    expected = written(list(device.registers), list(device.registers), Register.NOTIFY, 8, 0)
    assert expected.count(None) == 4 + 2 * 2, "ERROR, DEVICE_STATUS, ISR, GENERATION; two indices of two queues"


SELF_MODIFYING = """\
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
def test_a_device_that_is_led_over_its_own_rings_is_no_finding(target: str) -> None:
    """The name of the disk becomes descriptors, or an index: the second chain is whatever that says."""
    with EmulatedTarget() as emulated:
        run = emulated.run(parse(SELF_MODIFYING.format(target=target), emulated.catalogue))
    assert run.findings == ()
    assert run.trace.stopped == ""
