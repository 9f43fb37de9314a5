"""The IOMMU, Intel VT-d in legacy mode: tables, caches, faults, registers, invalidation queue, DMAR table."""
