"""Programs, ops, the kinds of ops and of their arguments."""
