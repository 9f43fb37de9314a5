"""The real contract: its calls as they were agreed, and the laws of layouts and decoding on each of them."""

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hvfuzz.abi.declaration import Declaration, family_module
from hvfuzz.abi.manual.document import render
from hvfuzz.abi.versions import FAMILIES, FEATURES, VERSIONS
from hvfuzz.hypervisor.hypercalls import ABI

Law = Callable[[Declaration, int, bytes], None]

# Number, name, fields with their widths in bytes: "name:width", with "@2" for what version 2 added. A guest that
# was built once goes on working: an entry here never changes, new ones are added.
AGREED = """
0x01 discovery.version      want:4
0x02 discovery.features     page:4
0x03 discovery.limits       what:4
0x10 memory.populate        first:8 count:4 order:1 flags:1@2
0x11 memory.decrease        first:8 count:4
0x12 memory.protect         first:8 count:4 rights:1
0x13 memory.exchange@2      gfns:8 out:8 count:4 start:8
0x20 grant.create           gfn:8 to:2 rights:1
0x21 grant.revoke           ref:4
0x22 grant.map              granter:2 ref:4 gfn:8 iova:8 flags:1
0x23 grant.unmap            handle:4 count:4 flags:1
0x24 grant.copy             flags:1 from_domain:2 to_domain:2 from:8 to:8 from_offset:2 to_offset:2 length:2
0x30 event.alloc            remote:2
0x31 event.bind             remote:2 port:4
0x32 event.send             port:4
0x33 event.close            port:4
0x40 sched.yield
0x41 sched.block
0x42 sched.kick             vcpu:4
0x43 sched.poll             ports:8 count:4 timeout:8
0x50 time.clock_read
0x60 device.assign          device:2 to:2
0x61 device.deassign        device:2
0x62 device.dma_map         iova:8 gfn:8 count:4 rights:1
0x63 device.dma_unmap       iova:8 count:4
0x64 device.dma_submit      device:2 from:8 to:8 length:4
0x65 device.dma_batch@2     device:2 ring:8
0x70 multicall              entries:8 count:4
0x78 console.write          text:8 length:4
"""
PRIVILEGED = {"device.assign", "device.deassign"}
PRODUCES = {
    "grant.create": "grant_ref",
    "grant.map": "handle",
    "event.alloc": "port",
    "event.bind": "port",
}
ELEMENTS = {
    ("memory.exchange", "gfns"): 8,
    ("memory.exchange", "out"): 8,
    ("sched.poll", "ports"): 4,
    ("device.dma_batch", "ring"): 8,
    ("console.write", "text"): 1,
    ("multicall", "entries"): 8,
}


def written(call: Declaration) -> str:
    since = "" if call.since == 1 else f"@{call.since}"
    fields = [
        f"{field.name}:{field.kind.width}" + ("" if field.since == call.since else f"@{field.since}")
        for field in call.fields
    ]
    return " ".join((f"{call.number:#04x}", call.name + since, *fields))


def test_the_calls_are_those_agreed() -> None:
    agreed = [re.sub(" +", " ", line).strip() for line in AGREED.strip().splitlines()]
    assert [written(call) for call in ABI.calls] == agreed


def test_who_may_call_what_and_gets_what() -> None:
    assert {call.name for call in ABI.calls if call.privileged} == PRIVILEGED
    assert {call.name: call.produces for call in ABI.calls if call.produces} == PRODUCES
    assert {
        (call.name, field.name): field.kind.element.width
        for call in ABI.calls
        for field in call.fields
        if field.kind.element is not None
    } == ELEMENTS
    assert [call.name for call in ABI.calls for field in call.fields if field.kind.follow] == ["multicall"]


def test_what_a_call_consumes_some_call_produces() -> None:
    consumed = {
        kind.consumes
        for call in ABI.calls
        for field in call.fields
        for kind in (field.kind, field.kind.element)
        if kind is not None and kind.consumes is not None
    }
    assert consumed == set(ABI.producers)


def test_families_and_features_are_announced() -> None:
    assert {family.name for family in ABI.families} == set(FAMILIES)
    added = {call.name for call in ABI.calls if call.since > 1}
    added |= {
        f"{call.name.partition('.')[2]}.{field.name}"
        for call in ABI.calls
        for field in call.fields
        if field.since > call.since
    }
    assert {feature.name for feature in FEATURES} == added


@pytest.mark.parametrize("call", ABI.calls, ids=lambda call: call.name)
def test_one_hypercall_is_one_place(call: Declaration) -> None:
    assert callable(vars(call.call).get("check"))
    assert family_module(call.call.__module__) == f"hvfuzz.hypervisor.hypercalls.{call.family}"
    assert len(set(call.errors)) == len(call.errors)
    assert not call.produces or call.result


def test_versions_only_append(append_only: Callable[[Declaration], None]) -> None:
    for call in ABI.calls:
        append_only(call)


bodies = st.binary(max_size=80) | st.binary(max_size=24).map(lambda data: data.ljust(80, b"\xff"))


@settings(max_examples=60, deadline=None)
@given(data=bodies)
@example(data=b"")
@example(data=b"\xff" * 256)
@example(data=bytes(256))
@example(data=bytes(range(80)))
def test_laws_of_structs_hold_for_each_call(parsers_agree: Law, decode_obeys: Law, data: bytes) -> None:
    for call in ABI.calls:
        for version in VERSIONS:
            parsers_agree(call, version, data)
            decode_obeys(call, version, data)


def test_the_document_has_every_call_in_order() -> None:
    text = render(ABI)
    places = [text.index(f"\n### {call.name} ({call.number:#04x})\n") for call in ABI.calls]
    assert all(earlier < later for earlier, later in pairwise(places))


@pytest.mark.parametrize("call", ABI.calls, ids=lambda call: call.name)
def test_the_documented_checks_are_those_that_can_fail(call: Declaration) -> None:
    heads = re.findall(r"^- ((?:`[A-Z_]+`(?:, )?)+)", call.doc, re.MULTILINE)
    assert {status for head in heads for status in re.findall(r"[A-Z_]+", head)} == {each.name for each in call.errors}
