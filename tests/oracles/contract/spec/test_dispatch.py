"""The specification of dispatch: order of refusals, and layouts of structs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.status import Status
from hvfuzz.oracles.contract.spec import BY_NAME, BY_NUMBER, CALLS, SPEC, arguments, decode, judge_dispatch

POPULATE, EXCHANGE, ASSIGN, YIELD = 0x10, 0x13, 0x60, 0x40


def header(size: int = 24, version: int = 2, reserved: int = 0) -> bytes:
    return size.to_bytes(2, "little") + version.to_bytes(2, "little") + reserved.to_bytes(4, "little")


def test_every_call_has_a_rule() -> None:
    assert set(SPEC) == set(BY_NAME)
    assert len(BY_NUMBER) == len(CALLS)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("sched.yield", 8),
        ("discovery.version", 16),
        ("memory.populate", 24),
        ("memory.exchange", 40),
        ("grant.map", 40),
        ("grant.copy", 40),
        ("sched.poll", 32),
        ("device.dma_map", 32),
        ("multicall", 24),
    ],
)
def test_size_of_a_struct(name: str, size: int) -> None:
    assert BY_NAME[name].layouts[2].size == size


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"cpl": 3, "number": 0x999}, Status.NOT_PERMITTED),
        ({"number": 0x999, "header": None}, Status.NO_CALL),
        ({"number": EXCHANGE, "version": 1, "header": None}, Status.NO_CALL),
        ({"number": ASSIGN, "header": None}, Status.NOT_PERMITTED),
        ({"number": ASSIGN, "header": None, "privileged": True}, Status.FAULT),
        ({"header": None}, Status.FAULT),
        ({"gva": 0xFFFF_8000_0000_0000}, Status.FAULT),
        ({"gva": (1 << 47) - 4}, Status.FAULT),
        ({"header": header(size=7, reserved=1, version=0)}, Status.INVALID),
        ({"header": header(size=257, version=3)}, Status.INVALID),
        ({"header": header(reserved=1, version=3)}, Status.INVALID),
        ({"header": header(version=0), "body": None}, Status.INVALID),
        ({"header": header(version=3), "body": None}, Status.TOO_NEW),
        ({"header": header(version=2), "version": 1, "body": None}, Status.TOO_NEW),
        ({"body": None}, Status.FAULT),
        ({"gva": (1 << 47) - 8}, Status.FAULT),
        ({"header": header(size=8), "body": None}, None),
        ({}, None),
        ({"header": header(size=9), "body": b"\xff"}, None),
        ({"header": header(size=256), "body": bytes(248)}, None),
        ({"header": header(size=25), "body": bytes(16) + b"\1"}, Status.TOO_NEW),
        # Padding is ignored.
        ({"header": header(size=24), "body": bytes(14) + b"\1\1"}, None),
        ({"number": YIELD, "header": header(size=9), "body": b"\1"}, Status.TOO_NEW),
        ({"number": YIELD, "header": header(size=9), "body": b"\0"}, None),
    ],
)
def test_dispatch(given: dict[str, Any], status: Status | None) -> None:
    call = {"version": 2, "cpl": 0, "number": POPULATE, "header": header(), "body": bytes(16)} | given
    assert judge_dispatch(**call) is status


def test_fields_lie_where_the_contract_says() -> None:
    body = bytes(range(1, 33))
    args = decode(0x22, header(40), body)
    assert args == (0x0201, 0x08070605, 0x100F0E0D0C0B0A09, 0x1817161514131211, 0x19)
    args = decode(0x24, header(40), body)
    assert (args.flags, args.from_domain, args.to_domain) == (1, 0x0403, 0x0605)
    assert (args.from_, args.to) == (0x100F0E0D0C0B0A09, 0x1817161514131211)
    assert (args.from_offset, args.to_offset, args.length) == (0x1A19, 0x1C1B, 0x1E1D)


def test_older_and_shorter_structs_lack_fields() -> None:
    body = bytes([1] * 8 + [2, 0, 0, 0, 9, 1, 0, 0])
    assert decode(POPULATE, header(), body).flags == 1
    assert decode(POPULATE, header(version=1), body).flags == 0
    assert decode(POPULATE, header(16), body[:8]) == (0x0101010101010101, 0, 0, 0)
    assert decode(POPULATE, header(19), body[:11]) == (0x0101010101010101, 2, 0, 0)


def test_arguments_may_lack_later_fields() -> None:
    assert arguments("memory.populate", [1, 2, 0]).flags == 0
    with pytest.raises(TypeError):
        arguments("memory.populate", [1, 2, 0, 0, 0])


@given(st.sampled_from(CALLS), st.binary(min_size=8, max_size=8), st.binary(max_size=248), st.integers(1, 2))
def test_what_dispatch_lets_pass_can_be_decoded(call: Any, head: bytes, body: bytes, version: int) -> None:
    size = int.from_bytes(head[:2], "little")
    for data in (head, header(8 + len(body), 1 + len(body) % 2)):
        given_body = body.ljust(max(size - 8, 0), b"\0")[:248] if data is head else body
        refusal = judge_dispatch(version, 0, call.number, data, given_body, privileged=True)
        if refusal is None:
            args = decode(call.number, data, given_body)
            assert len(args) == len(args._fields)
            assert all(value >= 0 for value in args)
