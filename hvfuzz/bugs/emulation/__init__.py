"""Planted bugs in emulated instructions and registers."""
