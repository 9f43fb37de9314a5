"""How programs are generated."""
