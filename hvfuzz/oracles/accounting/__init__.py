"""Counts and bounds: references, pools, work, and what the host remembers."""
