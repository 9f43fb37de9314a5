"""Measurements: speed, equal traces, trials of engines against planted bugs."""
