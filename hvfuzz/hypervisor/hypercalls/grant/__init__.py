"""Memory shared page by page: the owner grants, the other domain maps, unmaps, or has bytes copied."""

from hvfuzz.hypervisor.hypercalls.grant.copy import Copy
from hvfuzz.hypervisor.hypercalls.grant.entries import Create, Revoke
from hvfuzz.hypervisor.hypercalls.grant.mappings import Map, Unmap

__all__ = ["Copy", "Create", "Map", "Revoke", "Unmap"]
