"""Planted bugs in what devices may reach."""
