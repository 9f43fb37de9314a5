"""Address translation: stage 1, stage 2, and what is cached of both."""
