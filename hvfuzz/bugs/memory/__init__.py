"""Planted bugs in memory management: frames, stage 2 tables and copies to guests."""
