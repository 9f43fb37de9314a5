"""The instructions of a vCPU, by group: plain functions over the processor's state, which `VCpu` has as methods."""
