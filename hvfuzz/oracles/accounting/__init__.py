"""Counts and bounds: references, pools, work, and the size of the host's data."""
