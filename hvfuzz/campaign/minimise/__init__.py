"""The minimiser."""
