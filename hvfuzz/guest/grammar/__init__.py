"""Weights and field roles of each kind of op, for generation and mutation."""
