"""Intel EPT under VMX compared with Debian's Bochs, which boots a stub that runs guests, case by case."""

from typing import Final

from hvfuzz.references.ept.comparison import EptReference
from hvfuzz.references.reference import Reference

REFERENCE: Final[Reference] = EptReference()
