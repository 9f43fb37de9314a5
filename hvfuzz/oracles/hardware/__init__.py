"""A second model of MMU, TLB and IOMMU, exact to the cached entry: what is cached, dropped, charged and recorded."""
