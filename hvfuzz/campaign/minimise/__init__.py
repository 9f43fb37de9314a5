"""The test case minimiser (delta debugging on programs)."""
