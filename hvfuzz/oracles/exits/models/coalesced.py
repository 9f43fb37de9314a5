"""The second model of the window whose writes are queued: it reads as zero, and keeps nothing in the hypervisor.

What a write puts into the ring in guest memory is in `coalesced_ring`.
"""

from __future__ import annotations

from hvfuzz.oracles.exits.models.second_model import SecondModel


class QueueWindow(SecondModel):
    """The window of one domain."""

    __slots__ = ()

    name = "coalesced"
