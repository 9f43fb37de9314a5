"""Planted bugs in DMA: IOMMU mappings and device rings."""
