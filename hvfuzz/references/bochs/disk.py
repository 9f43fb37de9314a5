"""The disk of a stub: encodes a batch of cases, and finds the results. The format is that of assembly/boot.inc."""

from collections.abc import Iterable, Sequence
from struct import Struct
from types import MappingProxyType
from typing import Final

from hvfuzz.machine.addresses import WORD
from hvfuzz.references.reference import ReferenceError

SECTOR: Final = 512
UNWRITTEN: Final = b"\xff" * WORD
"""The initial status word, with which the results begin: the stub has not written its status yet."""
HEADER_SECTOR: Final = 32
"""Sector of the disk header; the stub lies before it."""

MEMORY: Final = 256 << 20
"""Bytes of memory; reads above it give all ones."""
CASES: Final = 0x100_0000
"""Address of what the stub reads from the disk: the header and the body."""
RESULTS: Final = 0x500_0000
"""Address of what it writes back."""
REGION: Final = 0x800_0000
"""Address of the tables, and of all other memory that guests can reach."""
STUB_DEFINES: Final = MappingProxyType(
    {"HEADER_SECTOR": HEADER_SECTOR, "CASES": CASES, "RESULTS": RESULTS, "REGION": REGION}
)
"""Constants of every stub, by name."""

_HEADER: Final = Struct("<5Q")
_PAIR: Final = Struct("<2Q")


def encode_pairs(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Pairs of u64, as the stubs read them."""
    return b"".join([_PAIR.pack(*pair) for pair in pairs])


def encode_batch(
    stub: bytes, tables: bytes, pairs: Sequence[tuple[int, int]], cases: Sequence[bytes], result_bytes: int
) -> tuple[bytes, int]:
    """(disk, first sector of the results) for encoded cases, whose results need at most `result_bytes` in all.

    `tables` go to REGION; what the `pairs` mean is up to the stub.
    """
    body = encode_pairs(pairs) + b"".join(cases)
    table_sectors, body_sectors = _sectors(len(tables)), _sectors(len(body))
    result_sectors = 1 + _sectors(result_bytes)
    if len(stub) > HEADER_SECTOR * SECTOR:
        raise ValueError(f"the stub has {len(stub)} bytes, more than {HEADER_SECTOR * SECTOR}")
    if CASES + (1 + body_sectors) * SECTOR > RESULTS or RESULTS + result_sectors * SECTOR > REGION:
        raise ValueError(f"{len(cases)} cases are too many for one batch")
    header = _HEADER.pack(len(cases), len(pairs), table_sectors, body_sectors, result_sectors)
    first = HEADER_SECTOR + 1 + table_sectors + body_sectors
    disk = bytearray((first + result_sectors) * SECTOR)
    for sector, data in (
        (0, stub),
        (HEADER_SECTOR, header),
        (HEADER_SECTOR + 1, tables),
        (HEADER_SECTOR + 1 + table_sectors, body),
    ):
        disk[sector * SECTOR : sector * SECTOR + len(data)] = data
    disk[first * SECTOR : first * SECTOR + WORD] = UNWRITTEN
    return bytes(disk), first


def results_of(data: bytes) -> memoryview:
    """The results in `data`, which is the disk from the first sector of the results. Raises ReferenceError."""
    status = int.from_bytes(data[:WORD], "little")
    if status:
        raise ReferenceError(f"the stub cannot enter VMX operation: step {status} of enter_vmx failed")
    return memoryview(data)[SECTOR:]


def _sectors(size: int) -> int:
    return -(-size // SECTOR)
