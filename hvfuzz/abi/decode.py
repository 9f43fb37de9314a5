"""From the bytes of an argument struct to an instance of its declaring class, or the status that refuses it.

These are steps 6 to 8 and 10 of the contract's dispatch order. The dispatcher does the fetches in between, so
there are two functions: `check_header` for the first eight bytes, `decode_body` for the rest. Both return a
`Status` for a refusal: a hostile struct is a common case and raises nothing.
"""

import struct

from hvfuzz.abi.declaration import Call, Declaration
from hvfuzz.abi.layout import Header, lower
from hvfuzz.abi.limits import HEADER_SIZE, STRUCT_MAX
from hvfuzz.abi.status import Status
from hvfuzz.abi.versions import CURRENT

_HEADER = struct.Struct(lower(Header)[0])

# Every header that is in order, by the version that the domain speaks: one lookup, and nothing allocated.
_GOOD: tuple[dict[bytes, tuple[int, int]], ...] = tuple(
    {
        _HEADER.pack(size, version, 0): (size, version)
        for version in range(1, spoken + 1)
        for size in range(HEADER_SIZE, STRUCT_MAX + 1)
    }
    for spoken in range(CURRENT + 1)
)


def check_header(header: bytes, domain_version: int) -> tuple[int, int] | Status:
    """The (size, version) that the eight bytes of a header claim, or the status that refuses them."""
    claimed = _GOOD[domain_version].get(header)
    if claimed is not None:
        return claimed
    size, version, reserved = _HEADER.unpack(header)
    if not HEADER_SIZE <= size <= STRUCT_MAX or reserved or not version:
        return Status.INVALID
    return Status.TOO_NEW


def decode_body(declaration: Declaration, version: int, body: bytes) -> Call | Status:
    """The arguments in `body`, the struct without its header, read as `version` lays them out.

    A shorter body is zero-extended. A longer one is TOO_NEW unless all that is beyond is zero. Padding is not
    looked at, and fields that `version` does not have are zero.
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
    """Both steps for a struct that is at hand whole; `body` is cut off to the size that the header claims."""
    claimed = check_header(header, domain_version)
    if isinstance(claimed, Status):
        return claimed
    size, version = claimed
    return decode_body(declaration, version, body[: size - HEADER_SIZE])
