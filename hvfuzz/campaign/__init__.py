"""Fuzzing campaigns: the seed corpus, worker processes, findings on disk, minimisation and the report."""
