"""Planted bugs in grants and event channels."""
