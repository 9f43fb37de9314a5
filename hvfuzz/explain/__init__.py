"""Findings explained: what a run did, recorded; what of it matters, found; and told, in words and pictures."""
