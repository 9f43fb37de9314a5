"""Metamorphic laws: a program and a changed program must leave the same, each law in its sense."""
