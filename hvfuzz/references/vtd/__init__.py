"""The IOMMU (VT-d, legacy mode) against QEMU's intel-iommu and its edu device."""

from typing import Final

from hvfuzz.references.vtd.comparison import VtdReference

REFERENCE: Final = VtdReference()
