"""Decodes the bytes of an argument struct to an instance of its declaring class, or to the status that refuses it.

These are steps 6 to 8 and 10 of the order of checks in ABI.md. The dispatcher fetches the struct in two parts, so there
are two functions: `check_header` for the first eight bytes and `decode_body` for the rest. Both return a `Status` for a
refusal and raise nothing: hostile structs are common.
"""

import struct

from hvfuzz.abi.declaration import Call, Declaration
from hvfuzz.abi.layout import Header, lower
from hvfuzz.abi.limits import HEADER_SIZE, STRUCT_MAX
from hvfuzz.abi.status import Status
from hvfuzz.abi.versions import CURRENT

_HEADER = struct.Struct(lower(Header)[0])

# Domain version -> every valid header -> (size, version): a check is one lookup that allocates nothing.
_GOOD: tuple[dict[bytes, tuple[int, int]], ...] = tuple(
    {
        _HEADER.pack(size, version, 0): (size, version)
        for version in range(1, spoken + 1)
        for size in range(HEADER_SIZE, STRUCT_MAX + 1)
    }
    for spoken in range(CURRENT + 1)
)


def check_header(header: bytes, domain_version: int) -> tuple[int, int] | Status:
    """The (size, version) in the eight bytes of a header, or the status that refuses them."""
    claimed = _GOOD[domain_version].get(header)
    if claimed is not None:
        return claimed
    size, version, reserved = _HEADER.unpack(header)
    if not HEADER_SIZE <= size <= STRUCT_MAX or reserved or not version:
        return Status.INVALID
    return Status.TOO_NEW


def decode_body(declaration: Declaration, version: int, body: bytes) -> Call | Status:
    """The arguments in `body`, the struct without its header, in the layout of `version`.

    A shorter body is extended with zeros. A longer one is TOO_NEW unless its surplus bytes are zero. Padding is
    ignored, and fields that `version` lacks are zero.
    """
    size, unpack, make, missing = declaration.plans[version]
    length = len(body)
    if length != size:
        if length < size:
            body = body.ljust(size, b"\0")
        elif body.count(0, size) != length - size:
            return Status.TOO_NEW
        else:
            body = body[:size]
    if missing:
        return make(*unpack(body), *missing)
    return make(*unpack(body))


def decode(declaration: Declaration, header: bytes, body: bytes, domain_version: int) -> Call | Status:
    """Both steps for a whole struct; `body` is truncated to the size in the header."""
    claimed = check_header(header, domain_version)
    if isinstance(claimed, Status):
        return claimed
    size, version = claimed
    return decode_body(declaration, version, body[: size - HEADER_SIZE])
