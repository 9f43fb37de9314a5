"""The IOMMU, Intel VT-d in legacy mode: tables, caches, faults, registers, invalidation queue, and the DMAR table."""
