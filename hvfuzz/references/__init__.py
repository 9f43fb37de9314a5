"""Differential tests of the hardware models against independent implementations: Unicorn, Bochs and QEMU."""
