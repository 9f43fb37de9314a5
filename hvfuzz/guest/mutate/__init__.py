"""How programs are mutated."""
