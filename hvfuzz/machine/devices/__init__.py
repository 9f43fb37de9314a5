"""PCI devices: each has registers in an MMIO window, and does DMA through the IOMMU."""
