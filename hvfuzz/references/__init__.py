"""Checks of the hardware models against implementations that nobody here wrote: Unicorn, Bochs and QEMU."""
