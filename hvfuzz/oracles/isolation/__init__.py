"""Isolation and confidentiality: what a domain may reach, learn, and have the hypervisor fetch."""
