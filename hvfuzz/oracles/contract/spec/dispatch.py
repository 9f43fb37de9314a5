"""The specification of dispatch: the layout of every argument struct, and the checks before those of the call.

The structs are written a second time on purpose: from ABI.md, not from the declarations.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from hvfuzz.abi.limits import HEADER_SIZE, STRUCT_MAX
from hvfuzz.abi.status import Status
from hvfuzz.oracles.contract.spec.ranges import valid_range

# Number, name, then the fields as name:width. "@2": since version 2. "!": privileged.
_CONTRACT: Final = """
01 discovery.version   want:4
02 discovery.features  page:4
03 discovery.limits    what:4
10 memory.populate     first:8 count:4 order:1 flags:1@2
11 memory.decrease     first:8 count:4
12 memory.protect      first:8 count:4 rights:1
13 memory.exchange@2   gfns:8 out:8 count:4 start:8
20 grant.create        gfn:8 to:2 rights:1
21 grant.revoke        ref:4
22 grant.map           granter:2 ref:4 gfn:8 iova:8 flags:1
23 grant.unmap         handle:4 count:4 flags:1
24 grant.copy          flags:1 from_domain:2 to_domain:2 from_:8 to:8 from_offset:2 to_offset:2 length:2
30 event.alloc         remote:2
31 event.bind          remote:2 port:4
32 event.send          port:4
33 event.close         port:4
40 sched.yield
41 sched.block
42 sched.kick          vcpu:4
43 sched.poll          ports:8 count:4 timeout:8
50 time.clock_read
60 device.assign!      device:2 to:2
61 device.deassign!    device:2
62 device.dma_map      iova:8 gfn:8 count:4 rights:1
63 device.dma_unmap    iova:8 count:4
64 device.dma_submit   device:2 from_:8 to:8 length:4
65 device.dma_batch@2  device:2 ring:8
70 multicall           entries:8 count:4
78 console.write       text:8 length:4
"""
VERSIONS: Final = (1, 2)
MULTICALL: Final = 0x70
_FORMATS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_HEADER: Final = struct.Struct("<HHI")


class Layout(NamedTuple):
    """The struct of one call at one version; `size` includes header and padding."""

    size: int
    body: struct.Struct
    """The fields after the header, with the padding between them."""
    absent: int
    """Number of fields of later versions, which are zero."""


class CallLayout(NamedTuple):
    """One call. `args` is the namedtuple of its arguments."""

    number: int
    name: str
    since: int
    privileged: bool
    layouts: Mapping[int, Layout]
    args: Any


def _layout(fields: list[tuple[int, int]], version: int) -> Layout:
    """The layout at `version` of fields (width, since): naturally aligned, padded to a multiple of 8 bytes."""
    size, code = HEADER_SIZE, "<"
    present = [width for width, since in fields if since <= version]
    for width in present:
        padding = -size % width
        code += f"{padding}x{_FORMATS[width]}"
        size += padding + width
    padding = -size % 8
    return Layout(size + padding, struct.Struct(f"{code}{padding}x"), len(fields) - len(present))


def _parse(line: str) -> CallLayout:
    """The call in one line of the table above."""
    number, title, *declared = line.split()
    name, _, since = title.rstrip("!").partition("@")
    names, fields = [], []
    for declaration in declared:
        field, _, rest = declaration.partition(":")
        width, _, field_since = rest.partition("@")
        names.append(field)
        fields.append((int(width), int(field_since or 1)))
    layouts = {version: _layout(fields, version) for version in VERSIONS}
    args = namedtuple("Args", names)  # type: ignore[misc] # the table above is not known to mypy
    return CallLayout(int(number, 16), name, int(since or 1), title.endswith("!"), layouts, args)


CALLS: Final = tuple(_parse(line) for line in _CONTRACT.strip().splitlines())
BY_NUMBER: Final[Mapping[int, CallLayout]] = MappingProxyType({call.number: call for call in CALLS})
BY_NAME: Final[Mapping[str, CallLayout]] = MappingProxyType({call.name: call for call in CALLS})


def judge_dispatch(
    version: int,
    cpl: int,
    number: int,
    header: bytes | None,
    body: bytes | None,
    *,
    privileged: bool = False,
    gva: int | None = None,
) -> Status | None:
    """The status with which dispatch must refuse a call; None if the call must go on to its own checks.

    `version` and `privileged` are the domain's. `header` and `body` are the first 8 bytes of the struct and the other
    bytes, as fetched. None means that the fetch failed: the status is FAULT if the fetch is necessary. With `gva`, the
    address of the struct, a fetch from an invalid range is FAULT, too. The numbers below are those of "Order of
    checks" in ABI.md.
    """
    # 1. Only CPL 0 makes calls.
    if cpl:
        return Status.NOT_PERMITTED
    # 2, 3. The number is known at the domain's version.
    call = BY_NUMBER.get(number)
    if call is None or call.since > version:
        return Status.NO_CALL
    # 4. Only the control domain makes privileged calls.
    if call.privileged and not privileged:
        return Status.NOT_PERMITTED
    # 5. The header is readable.
    if header is None or (gva is not None and not valid_range(gva, HEADER_SIZE)):
        return Status.FAULT
    # 6, 7, 8. The fields of the header are valid.
    size, struct_version, reserved = _HEADER.unpack(header)
    if not HEADER_SIZE <= size <= STRUCT_MAX or reserved or struct_version == 0:
        return Status.INVALID
    if struct_version > version:
        return Status.TOO_NEW
    # 9. The rest of the struct is readable.
    rest = size - HEADER_SIZE
    if rest and (body is None or (gva is not None and not valid_range(gva + HEADER_SIZE, rest))):
        return Status.FAULT
    # 10. Bytes beyond the layout of the struct's version are zero.
    beyond = call.layouts[struct_version].size - HEADER_SIZE
    return Status.TOO_NEW if body is not None and any(body[beyond:rest]) else None


def decode(number: int, header: bytes, body: bytes) -> Any:
    """The arguments in a struct that passed dispatch."""
    call = BY_NUMBER[number]
    layout = call.layouts[_HEADER.unpack(header)[1]]
    size = layout.body.size
    values = layout.body.unpack(body[:size].ljust(size, b"\0"))
    return call.args(*values, *(0,) * layout.absent)


def arguments(name: str, values: Iterable[int]) -> Any:
    """The arguments of the call `name` from their values, in the order of the struct. Missing values are zero."""
    call = BY_NAME[name]
    given = tuple(values)
    return call.args(*given, *(0,) * (len(call.args._fields) - len(given)))
