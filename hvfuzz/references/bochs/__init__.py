"""Debian's Bochs, which boots a stub from a disk image and runs a batch of cases as guests under VMX."""
