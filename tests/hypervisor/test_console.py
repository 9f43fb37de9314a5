"""Writing to the console."""

from __future__ import annotations

from collections.abc import Callable

from hvfuzz.abi.boot import HYPERVISOR_HOLE_START
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.hypervisor import Hypervisor

GuestCall = Callable[..., tuple[Status, int]]


def test_text_goes_to_the_callers_console(hv: Hypervisor, guest_call: GuestCall) -> None:
    vcpu = hv.domains[1].vcpus[0]
    assert guest_call(hv, vcpu, "console.write", text=b"hello ", length=6) == (Status.OK, 6)
    assert guest_call(hv, vcpu, "console.write", text=b"world!", length=5) == (Status.OK, 5)
    assert [bytes(domain.console) for domain in hv.domains] == [b"", b"hello world", b""]


def test_the_last_256_bytes_are_kept(hv: Hypervisor, guest_call: GuestCall) -> None:
    vcpu = hv.domains[1].vcpus[0]
    assert guest_call(hv, vcpu, "console.write", text=b"a" * 256, length=256) == (Status.OK, 256)
    assert guest_call(hv, vcpu, "console.write", text=b"bcd", length=3) == (Status.OK, 3)
    assert hv.domains[1].console == b"a" * 253 + b"bcd"


def test_refusals_in_order(hv: Hypervisor, guest_call: GuestCall) -> None:
    vcpu = hv.domains[1].vcpus[0]
    hole = HYPERVISOR_HOLE_START
    assert guest_call(hv, vcpu, "console.write", text=hole, length=257) == (Status.INVALID, 0)
    assert guest_call(hv, vcpu, "console.write", text=hole, length=1) == (Status.FAULT, 0)
    assert guest_call(hv, vcpu, "console.write", text=hole, length=0) == (Status.OK, 0)
    assert hv.domains[1].console == b""
