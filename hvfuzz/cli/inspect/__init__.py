"""The commands that lay one program open: `show`, `walk`, `cost`."""
