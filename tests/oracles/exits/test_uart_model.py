"""The second model of the serial port agrees with the port, whatever a driver does."""

from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import WORLDS_BY_NAME
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.devices.uart import Uart
from hvfuzz.oracles.exits.models.uart import SerialPort

HYPERVISOR = boot(WORLDS_BY_NAME["pair"])
BYTES = st.sampled_from((0, 1, 2, 3, 7, 0x10, 0x80, 0xFF)) | st.integers(0, 0xFFFF_FFFF)
ACCESSES = st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from((1, 1, 1, 2, 4)), BYTES), max_size=60)


@given(accesses=ACCESSES)
def test_model_and_port_agree(accesses: list[tuple[bool, int, int, int]]) -> None:
    port = HYPERVISOR.domains[1].devices.by_name["uart"]
    assert isinstance(port, Uart)
    port.reset()
    model = SerialPort(HYPERVISOR.machine.clock)
    for write, offset, width, value in accesses:
        if write:
            port.port_write(offset, width, value)
            model.port_write(offset, width, value)
        else:
            assert port.port_read(offset, width) == model.port_read(offset, width)
        assert model.difference(port) == ""


def test_only_the_last_bytes_are_kept() -> None:
    port = HYPERVISOR.domains[1].devices.by_name["uart"]
    port.reset()
    model = SerialPort(HYPERVISOR.machine.clock)
    for byte in range(300):
        port.port_write(0, 1, byte)
        model.port_write(0, 1, byte)
    assert model.difference(port) == ""
    assert len(model.sent) == 256
