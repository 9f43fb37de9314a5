"""Known deviations of Bochs from the manual. `hvfuzz.references.ept.manual` says what each of them changes.

One more is out of reach: in Bochs no translation outlives a VM entry, with or without INVEPT, so the use of stale ones
(SDM Vol. 3C, 29.4.3.1 and 29.4.3.3) cannot be compared, and each case begins with an empty TLB.
"""

from typing import Final

from hvfuzz.references.reference import Quirk

LARGE_LEAF_BIT_12: Final = Quirk(
    "large-leaf-bit-12",
    "bit 12 of an EPT leaf of 2 MiB or 1 GiB is ignored",
    "bits 20..12 or 29..12 are reserved, and an entry with any of them set is misconfigured "
    "(SDM Vol. 3C, 29.3.3.1; tables 29-3 and 29-5)",
)
WALK_QUALIFICATION: Final = Quirk(
    "walk-qualification",
    "with EPT accessed and dirty flags enabled, a violation by a guest paging-structure access sets bit 1, not bit 0",
    "such an access counts as a write, and its violation sets both bit 0 and bit 1 (SDM Vol. 3C, table 28-7, note 1)",
)
UNCHECKED_FLAGS: Final = Quirk(
    "unchecked-flags",
    "with EPT accessed and dirty flags disabled, guest accessed and dirty flags are set even in a page that EPT makes "
    "read-only",
    "updates of these flags are data writes, and cause an EPT violation (SDM Vol. 3C, 29.3.3.2)",
)
LATE_FLAGS: Final = Quirk(
    "late-flags",
    "guest accessed flags are set only after the whole walk has succeeded",
    "the accessed flag of an entry is set when the entry is used in a translation; this includes the entries above "
    "one that faults (SDM Vol. 3A, 4.8)",
)
QUIRKS: Final = (LARGE_LEAF_BIT_12, WALK_QUALIFICATION, UNCHECKED_FLAGS, LATE_FLAGS)
