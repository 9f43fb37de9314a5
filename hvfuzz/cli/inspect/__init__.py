"""The commands that inspect one program: `show`, `walk`, `cost`."""
