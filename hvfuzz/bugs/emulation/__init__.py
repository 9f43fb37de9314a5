"""Planted bugs in the emulation of instructions and registers."""
