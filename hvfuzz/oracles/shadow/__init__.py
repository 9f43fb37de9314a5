"""The shadow: what every table that hardware walks says, followed write by write."""
