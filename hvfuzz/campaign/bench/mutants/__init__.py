"""Mutation testing of the oracles: small faults planted one at a time, and which of them some oracle notices."""
