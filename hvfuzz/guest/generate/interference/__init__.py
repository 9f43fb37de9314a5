"""Interference with the ops of a program: requests for memory that fail, cached translations that are lost."""
