"""Second models of the PCI functions, which predict their registers and each access that they make by DMA."""
