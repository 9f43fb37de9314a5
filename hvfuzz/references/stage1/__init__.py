"""Stage 1 of the MMU, x86-64 4-level paging, compared with Unicorn."""

from typing import Final

from hvfuzz.references.reference import Reference
from hvfuzz.references.stage1.comparison import Stage1

REFERENCE: Final[Reference] = Stage1()
