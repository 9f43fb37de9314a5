"""Campaigns: the corpus, findings and their minimisation, and the worker processes that fuzz."""
