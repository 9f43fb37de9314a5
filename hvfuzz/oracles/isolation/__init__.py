"""Isolation and confidentiality: what a domain may reach and learn, and how the hypervisor reads guest memory."""
