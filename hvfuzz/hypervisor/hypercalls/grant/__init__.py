"""Memory shared page by page: the owner grants a page; another domain maps it, or copies from or to it.

Longer than 300 lines: the docstrings are the reference text of five calls in ABI.md.
"""

from hvfuzz.hypervisor.hypercalls.grant.copy import Copy
from hvfuzz.hypervisor.hypercalls.grant.entries import Create, Revoke
from hvfuzz.hypervisor.hypercalls.grant.mappings import Map, Unmap

__all__ = ["Copy", "Create", "Map", "Revoke", "Unmap"]
