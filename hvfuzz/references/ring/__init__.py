"""Changes of ring, exceptions, and VM entry and exit compared with Debian's Bochs, one instruction a case."""

from typing import Final

from hvfuzz.references.reference import Reference
from hvfuzz.references.ring.comparison import RingReference

REFERENCE: Final[Reference] = RingReference()
