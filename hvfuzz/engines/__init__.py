"""Engines: the ways to choose the next program."""
