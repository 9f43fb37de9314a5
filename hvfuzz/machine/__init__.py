"""The hardware: memory, translation, processors, IOMMU, devices and time; it knows no hypervisor."""
