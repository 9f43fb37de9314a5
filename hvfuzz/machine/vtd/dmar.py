"""The DMAR table: what firmware tells system software about DMA remapping (VT-d spec, chapter 8).

    header (8.1) | DRHD: the IOMMU and its registers (8.3) | RMRR: memory reserved for a device (8.4) ...

A reserved region belongs to firmware and to the devices in its scope, which may access it at any time. Software must
identity-map it for them, and must not use it for anything else (8.4). All numbers are little-endian.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

DMAR_ADDRESS: Final = 0x800
"""Hpa of the table. (A real system finds it through RSDP and XSDT, which are in low memory as well.)"""
SIGNATURE: Final = b"DMAR"
HEADER: Final = Struct("<4sIBB6s8sI4sIBB10s")
"""Signature, length, revision, checksum, OEM id, OEM table id and revision, creator id and revision; width, flags."""
REVISION: Final = 1
STRUCTURE: Final = Struct("<HH")
"""Type and length, at the start of every remapping structure (8.2)."""
DRHD: Final = Struct("<HHBBHQ")
"""Type, length, flags, reserved, segment, base of the registers; then the device scope (8.3)."""
DRHD_TYPE: Final = 0
INCLUDE_PCI_ALL: Final = 1 << 0
"""The unit remaps every device of the segment that no other structure names."""
RMRR: Final = Struct("<HHHHQQ")
"""Type, length, reserved, segment, base, limit (the last byte); then the device scope (8.4)."""
RMRR_TYPE: Final = 1
SCOPE: Final = Struct("<BBHBB")
"""Type, length, reserved, enumeration id, start bus; then the path (8.3.1)."""
SCOPE_ENDPOINT: Final = 1
PATH: Final = Struct("<BB")
"""PCI device and function."""
IOMMU_REGISTERS: Final = 0xFED9_0000
"""Hpa of the IOMMU's register page."""


class ReservedMemory(NamedTuple):
    """A region for one device on a root bus: the addresses from `base` to `limit`, inclusive."""

    bdf: int
    base: int
    limit: int


def dmar_table(host_width: int, reserved: Iterable[ReservedMemory]) -> bytes:
    """The DMAR table of a machine with one IOMMU for segment 0; its bytes add up to 0 modulo 256 (ACPI 5.2.6)."""
    body = DRHD.pack(DRHD_TYPE, DRHD.size, INCLUDE_PCI_ALL, 0, 0, IOMMU_REGISTERS)
    for bdf, base, limit in reserved:
        path = PATH.pack(bdf >> 3 & 0x1F, bdf & 7)
        scope = SCOPE.pack(SCOPE_ENDPOINT, SCOPE.size + len(path), 0, 0, bdf >> 8) + path
        body += RMRR.pack(RMRR_TYPE, RMRR.size + len(scope), 0, 0, base, limit) + scope
    length = HEADER.size + len(body)

    def with_checksum(checksum: int) -> bytes:
        width = host_width - 1
        ours = b"HVFUZZ", b"hvfuzz01", 1, b"hvfz", 1
        return HEADER.pack(SIGNATURE, length, REVISION, checksum, *ours, width, 0, bytes(10)) + body

    return with_checksum(-sum(with_checksum(0)) & 0xFF)
