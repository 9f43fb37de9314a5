"""Engines: each chooses the programs of a campaign in its own way."""
