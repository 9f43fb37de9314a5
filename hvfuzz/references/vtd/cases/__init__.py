"""The cases of the comparison with QEMU."""
