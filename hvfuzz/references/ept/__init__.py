"""Intel EPT under VMX against Debian's Bochs, which boots a stub of our own that runs guests case by case."""

from typing import Final

from hvfuzz.references.ept.comparison import EptReference
from hvfuzz.references.reference import Reference

REFERENCE: Final[Reference] = EptReference()
