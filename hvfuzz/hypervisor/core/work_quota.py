"""How much a long call may do before others have their turn."""

PREEMPTION_QUOTA = 64
"""Units of work that a long call may do between two preemption points, unless the system was told otherwise."""
