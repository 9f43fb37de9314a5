"""The serial port: what a polling driver sees, and that what was sent stays bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.hypervisor.devices.uart import (
    FCR_CLEAR_RECEIVER,
    FCR_ENABLE,
    IER_LINE_STATUS,
    IER_RECEIVED,
    IER_TRANSMITTER_EMPTY,
    IIR_FIFO,
    IIR_LINE_STATUS,
    IIR_NONE,
    IIR_RECEIVED,
    IIR_TRANSMITTER_EMPTY,
    LCR_DLAB,
    LSR_DATA_READY,
    LSR_IDLE,
    LSR_OVERRUN,
    MCR_LOOPBACK,
    MSR_CONNECTED,
    RECEIVE_FIFO,
    TRANSMITTED_LIMIT,
    Register,
    Uart,
)


@pytest.fixture
def uart() -> Uart:
    return Uart()


def test_transmits(uart: Uart) -> None:
    for byte in b"hello":
        assert uart.port_read(Register.LSR, 1) == LSR_IDLE
        uart.port_write(Register.DATA, 1, byte)
    assert uart.transmitted == b"hello"


def test_keeps_the_last_bytes_sent(uart: Uart) -> None:
    for i in range(TRANSMITTED_LIMIT + 10):
        uart.port_write(Register.DATA, 1, i)
    assert len(uart.transmitted) == TRANSMITTED_LIMIT
    assert uart.transmitted[0] == 10


def test_receives_one_byte_without_fifo(uart: Uart) -> None:
    uart.receive(0x41)
    assert uart.port_read(Register.LSR, 1) == LSR_IDLE | LSR_DATA_READY
    uart.receive(0x42)
    assert uart.port_read(Register.LSR, 1) == LSR_IDLE | LSR_DATA_READY | LSR_OVERRUN
    assert uart.port_read(Register.LSR, 1) == LSR_IDLE | LSR_DATA_READY
    assert uart.port_read(Register.DATA, 1) == 0x42
    assert uart.port_read(Register.DATA, 1) == 0
    assert uart.port_read(Register.LSR, 1) == LSR_IDLE


def test_receives_into_a_fifo(uart: Uart) -> None:
    uart.port_write(Register.IIR, 1, FCR_ENABLE)
    for i in range(RECEIVE_FIFO + 1):
        uart.receive(i)
    assert uart.port_read(Register.LSR, 1) & LSR_OVERRUN
    assert [uart.port_read(Register.DATA, 1) for _ in range(RECEIVE_FIFO)] == list(range(RECEIVE_FIFO))
    uart.receive(1)
    uart.port_write(Register.IIR, 1, FCR_ENABLE | FCR_CLEAR_RECEIVER)
    assert uart.received == []
    uart.receive(1)
    uart.port_write(Register.IIR, 1, FCR_ENABLE)
    assert uart.received == [1]
    uart.port_write(Register.IIR, 1, 0)
    assert uart.received == []


def test_divisor_latch(uart: Uart) -> None:
    uart.port_write(Register.IER, 1, 0xFF)
    uart.port_write(Register.LCR, 1, LCR_DLAB | 3)
    uart.port_write(Register.DATA, 2, 0x1234)
    assert uart.port_read(Register.DATA, 2) == 0x1234
    assert uart.port_read(Register.LCR, 1) == LCR_DLAB | 3
    uart.port_write(Register.LCR, 1, 3)
    assert uart.port_read(Register.IER, 1) == 0x0F
    assert uart.transmitted == b""


def test_interrupt_identification(uart: Uart) -> None:
    assert uart.port_read(Register.IIR, 1) == IIR_NONE
    uart.port_write(Register.IER, 1, IER_TRANSMITTER_EMPTY | IER_RECEIVED | IER_LINE_STATUS)
    assert uart.port_read(Register.IIR, 1) == IIR_TRANSMITTER_EMPTY
    assert uart.port_read(Register.IIR, 1) == IIR_NONE
    uart.port_write(Register.DATA, 1, 0)
    uart.receive(1)
    uart.receive(2)
    assert uart.port_read(Register.IIR, 1) == IIR_LINE_STATUS
    uart.port_read(Register.LSR, 1)
    assert uart.port_read(Register.IIR, 1) == IIR_RECEIVED
    uart.port_read(Register.DATA, 1)
    assert uart.port_read(Register.IIR, 1) == IIR_TRANSMITTER_EMPTY
    uart.port_write(Register.IIR, 1, FCR_ENABLE)
    assert uart.port_read(Register.IIR, 1) == IIR_NONE | IIR_FIFO


def test_loopback(uart: Uart) -> None:
    assert uart.port_read(Register.MSR, 1) == MSR_CONNECTED
    uart.port_write(Register.MCR, 1, MCR_LOOPBACK | 0x0B)
    assert uart.port_read(Register.MCR, 1) == MCR_LOOPBACK | 0x0B
    assert uart.port_read(Register.MSR, 1) == 0xB0
    uart.port_write(Register.MCR, 1, MCR_LOOPBACK | 0x04)
    assert uart.port_read(Register.MSR, 1) == 0x40
    uart.port_write(Register.DATA, 1, 0xAE)
    assert uart.transmitted == b""
    assert uart.port_read(Register.DATA, 1) == 0xAE


def test_wide_access_is_split_into_bytes(uart: Uart) -> None:
    uart.port_write(Register.MSR, 4, 0x0102_5A03)
    assert uart.port_read(Register.SCR, 1) == 0x5A
    assert uart.port_read(Register.SCR, 4) == 0xFFFF_FF5A
    uart.port_write(Register.LSR, 1, 0xFF)
    assert uart.port_read(Register.LSR, 2) == LSR_IDLE | MSR_CONNECTED << 8
    assert uart.port_read(8, 1) == 0xFF
    assert uart.port_read(-1, 1) == 0xFF


def state(uart: Uart) -> list[object]:
    return [
        bytes(value) if isinstance(value, bytearray) else value
        for value in (getattr(uart, name) for name in sorted(Uart.__slots__) if name != "accesses")
    ]


OPERATION = st.tuples(st.booleans(), st.integers(-2, 9), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1))


@given(st.lists(OPERATION, max_size=60))
def test_no_sequence_leaves_the_bounds_and_reset_undoes_all(
    operations: list[tuple[bool, int, int, int]],
) -> None:
    uart = Uart()
    for is_write, offset, size, value in operations:
        if is_write:
            uart.port_write(offset, size, value)
        else:
            assert 0 <= uart.port_read(offset, size) < 1 << 8 * size
        before = uart.accesses
        uart.receive(value)
        assert uart.accesses == before + 1
        assert len(uart.transmitted) <= TRANSMITTED_LIMIT
        assert len(uart.received) <= RECEIVE_FIFO
    uart.reset()
    assert state(uart) == state(Uart())
