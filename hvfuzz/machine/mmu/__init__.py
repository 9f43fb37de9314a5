"""Address translation: stage 1, stage 2, and the caches of both."""
