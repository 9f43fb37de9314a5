"""ABI.md: the reference manual of the ABI, from prose and from the declarations."""
