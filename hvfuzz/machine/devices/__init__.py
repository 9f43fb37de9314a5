"""The devices: what answers at an MMIO window or a port, and what does DMA, always through the IOMMU."""
