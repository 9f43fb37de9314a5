"""Second model of the coalesced MMIO window: it reads as zero, and has no state in the hypervisor.

`coalesced_ring` models the ring in guest memory.
"""

from __future__ import annotations

from hvfuzz.oracles.exits.models.second_model import SecondModel


class QueueWindow(SecondModel):
    """The window of one domain."""

    __slots__ = ()

    name = "coalesced"
