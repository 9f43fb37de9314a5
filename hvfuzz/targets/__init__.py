"""Targets: what a program runs against."""
