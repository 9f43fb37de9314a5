"""The declared channels: all ways in which the contract lets a domain learn what other domains do.

Everything else must be equal in two runs that differ only in the secrets and acts of others. Each channel names the
passage of ABI.md that declares it; a test holds a program that needs it, and finds a fault where it is taken away.

The manual of the processor adds one that is closed here by construction: caches of translations have a capacity that
all vCPUs share, and may drop an entry at any time (SDM Vol. 3C, 29.4). In a pair their capacity is never used up, and
ops that set it, or drop entries, are left out; so are races between vCPUs of two domains, in which one domain's op
lasts as long as the other's takes.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Channel(StrEnum):
    """A way to learn of others that the contract declares."""

    GRANTS = "grants"
    """A grant names the domain that may map or copy; from then on the two share memory, and all that is done to it."""
    EVENTS = "events"
    """A port names its remote domain; what is done to the port and its peer reaches that domain."""
    DEVICES = "devices"
    """The control domain gives devices to others, takes them away, and learns from refusals what they have."""
    GRAINS = "grains"
    """A counted read of the clock tells its grain, so others' time if that is another grain."""
    TICKS = "ticks"
    """Everything else that depends on time goes by ticks."""
    WINDOWS = "windows"
    """A clock read beyond those of the window waits for the next: how long depends on when it began."""
    DEADLINES = "deadlines"
    """A deadline is met by the next VM exit of any vCPU."""
    FRAMES = "frames"
    """Host frames are shared: a call is refused if others left too few."""
    PLACEMENT = "placement"
    """Whether `memory.protect` finds consecutive frames depends on which frames others left free."""
    RESULTS = "results"
    """An op of a program may use the result of another domain's op: the program itself tells it (no passage)."""


PASSAGES: Final[Mapping[Channel, tuple[str, ...]]] = MappingProxyType(
    {
        Channel.GRANTS: (
            "Memory shared page by page: the owner grants a page; another domain maps it, or copies from or to it.",
        ),
        Channel.EVENTS: ("Event channels: ports, connected in pairs.",),
        Channel.DEVICES: (
            "Assign a device to domain `to`. From then on, the device accesses memory through that domain's mappings.",
            "`NO_POOL`: the pool of `to` has too few pages for new tables.",
        ),
        Channel.GRAINS: ("**grains** of 4096 cycles: the result of a counted read,",),
        Channel.TICKS: ("**ticks** of 16384 cycles: everything else that depends on time.",),
        Channel.WINDOWS: ("the vCPU waits until the next window begins, then reads",),
        Channel.DEADLINES: ("It is met when a VM exit of any vCPU begins in that tick or a later one.",),
        Channel.FRAMES: ("Too few host frames are free.",),
        Channel.PLACEMENT: (
            "If an aligned range of 512 pages with consecutive frames gets equal rights by the call, a large page "
            "replaces their table, which returns to the pool.",
        ),
        Channel.RESULTS: (),
    }
)
"""What ABI.md says of each channel, with single spaces."""
DECLARED: Final = frozenset(Channel)
