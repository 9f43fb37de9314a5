"""How a program runs on a booted machine, and the trace of it."""
