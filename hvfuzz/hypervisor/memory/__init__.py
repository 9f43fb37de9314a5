"""Memory management: frame table, allocator, stage 2 and DMA tables, and access to guest memory."""
