"""Execution of a program on a booted machine, and its trace."""
