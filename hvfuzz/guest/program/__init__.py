"""Programs: ops, their kinds, and their arguments."""
