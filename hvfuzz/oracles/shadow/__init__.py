"""The shadow: a copy of every table that hardware walks, kept up to date write by write."""
