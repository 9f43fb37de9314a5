"""Planted bugs in the handling of frames and tables."""
