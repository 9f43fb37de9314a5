"""The IOMMU as the VT-d specification describes it, and with QEMU's quirks on request; shares no code with ours."""
