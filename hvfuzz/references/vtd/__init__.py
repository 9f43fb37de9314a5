"""The IOMMU model (VT-d, legacy mode) compared with QEMU's intel-iommu and edu devices."""

from typing import Final

from hvfuzz.references.vtd.comparison import VtdReference

REFERENCE: Final = VtdReference()
