"""Memory map shared by our model and Bochs, and the tables that every case starts from.

Host memory (hpa) is the same in the model and in Bochs: MEMORY bytes; reads above it give all ones. REGION is all
memory that guests can reach: EPT tables, guest tables, code and data. These 4 MiB have known contents, so an entry with
one changed address bit leads to known words, or to no memory.

The guest reaches six *parts*: its four tables, the data page, and the code with the two tables that map it. Each part
has EPT tables of its own below level 4, so that an EPT entry can be changed for one part only. A gpa is
`slot << 39 | PDPT index << 30 | offset`; the two slots are the two EPT PML4 entries that 40-bit addresses allow. For
tables and code the offset equals the hpa, so an EPT leaf of any size maps them to the same place. For the data it does
not, so each leaf size maps to different data.
"""

from enum import IntEnum
from types import MappingProxyType
from typing import Final

from hvfuzz.machine.addresses import EXEC, PAGE_SHIFT, U64, WORD
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.references.bochs.disk import REGION

REGION_SIZE: Final = 4 << 20
TABLES_SIZE: Final = 0x1_8000
"""Bytes of tables and code at the start of REGION; the rest of it holds `pattern`."""

LEVELS: Final = (4, 3, 2, 1)
EPT_ROOT: Final = REGION
RIGHTS: Final = ept.RIGHTS
LEAF: Final = ept.RIGHTS | ept.MemoryType.WB << ept.MEMORY_TYPE_SHIFT
TABLE: Final = paging.P | paging.RW | paging.US | paging.A


class Part(IntEnum):
    """A piece of the guest's memory with its own EPT tables."""

    PML4 = 0
    PDPT = 1
    PD = 2
    PT = 3
    DATA = 4
    CODE = 5


GUEST_TABLES: Final = (Part.PML4, Part.PDPT, Part.PD, Part.PT)
_EPT_PDPT: Final = (REGION + 0x1000, REGION + 0x2000)
"""Hpas, by slot."""
_PDPT_INDEX: Final = (0x05, 0x09, 0x21, 0x42, 0x03, 0x101)
"""By part. The data has index 3, below 4 GiB in slot 0, as PAE paging needs it; no part has index 0."""
_EPT_PD: Final = REGION + 0x4000
_EPT_PT: Final = REGION + 0x5000
"""Hpas for the first part; each following part has its tables 0x2000 bytes further."""
_HPA: Final = tuple(REGION + offset for offset in (0x1_0000, 0x1_1000, 0x1_2000, 0x1_3000, 0x2_0000, 0x1_6000))
CODE_PDPT: Final = REGION + 0x1_4000
CODE_PD: Final = REGION + 0x1_5000
PDPTES: Final = REGION + 0x1_7000
PDPTES_OFFSET: Final = 0x7E0
"""Hpa of a page, and the offset in it of a PAE page-directory-pointer table that maps the code."""
DATA_OFFSET: Final = REGION + 0x2B_7000
"""Low 30 bits of the gpa of the data."""

DATA_INDEX: Final = 0x15C
"""Bits 20..12 of the data's linear address; they differ in its gpa, so a large guest page maps to other data."""
GVA_LOW: Final = 0xFA << 39 | 0xD3 << 30 | (DATA_OFFSET >> 21) << 21 | DATA_INDEX << PAGE_SHIFT
GVA_HIGH: Final = (U64 << 48 & U64) | 0x19E << 39 | (GVA_LOW & ((1 << 39) - 1))
"""A linear address of the same data in the upper half."""
USER_CODE: Final = 7
KERNEL_CODE: Final = 9
"""Indexes of the PDEs that map the code for CPL 3 and CPL 0: with SMEP, the kernel cannot run a user page."""

_HOME_SLOT: Final = (0, 0, 0, 0, 1, 0)


def hpa_of(part: Part) -> int:
    """Hpa of the first byte of a part under an EPT leaf of 4 KiB."""
    return _HPA[part]


def gpa_of(part: Part, slot: int | None = None) -> int:
    """Gpa of the first byte of a part in `slot` (None: its usual slot)."""
    offset = DATA_OFFSET if part is Part.DATA else _HPA[part]
    return (_HOME_SLOT[part] if slot is None else slot) << 39 | _PDPT_INDEX[part] << 30 | offset


CODE_PD_GPA: Final = gpa_of(Part.CODE) - _HPA[Part.CODE] + CODE_PD


def code_gva(user: bool) -> int:
    """Linear address of the code page for CPL 3 (`user`) or CPL 0."""
    return (USER_CODE if user else KERNEL_CODE) << 21 | _HPA[Part.CODE] & 0x1F_FFFF


def ept_entry(part: Part, level: int, slot: int | None = None) -> int:
    """Hpa of the level-`level` EPT entry that translates a part in `slot` (None: its usual slot)."""
    gpa = gpa_of(part, slot)
    table = {4: EPT_ROOT, 3: _EPT_PDPT[gpa >> 39], 2: _EPT_PD + 0x2000 * part, 1: _EPT_PT + 0x2000 * part}[level]
    return table | (gpa >> PAGE_SHIFT + 9 * (level - 1) & 511) << 3


def guest_entry(level: int, gva: int = GVA_LOW) -> int:
    """Hpa of the level-`level` guest paging-structure entry that translates `gva`, an address of the data."""
    return _HPA[4 - level] | (gva >> PAGE_SHIFT + 9 * (level - 1) & 511) << 3


def pattern(hpa: int) -> int:
    """The word at `hpa` in REGION after the tables: as code, MOV EAX, hpa >> 3; VMCALL; as an entry, not present."""
    return 0xC1010F << 40 | (hpa >> 3 & 0xFFFF_FFFF) << 8 | 0xB8


def _template() -> dict[int, tuple[str, int]]:
    words: dict[int, tuple[str, int]] = {}
    for slot in (0, 1):
        words[EPT_ROOT + 8 * slot] = f"ept4[{slot}]", _EPT_PDPT[slot] | RIGHTS
    for part in Part:
        name = part.name.lower()
        for slot in (0, 1):
            words[ept_entry(part, 3, slot)] = f"ept3[{slot}].{name}", _EPT_PD + 0x2000 * part | RIGHTS
        words[ept_entry(part, 2)] = f"ept2.{name}", _EPT_PT + 0x2000 * part | RIGHTS
        words[ept_entry(part, 1)] = f"ept1.{name}", _HPA[part] | LEAF
    data = ept_entry(Part.DATA, 1) & ~0xFFF
    words[data + 8 * (DATA_OFFSET >> PAGE_SHIFT & 511) + 8] = "ept1.data.next", REGION + 0x3_1000 | LEAF
    words[data + 8 * DATA_INDEX] = "ept1.large", REGION + 0x2_5000 | LEAF
    words[data + 8 * DATA_INDEX + 8] = "ept1.large.next", REGION + 0x3_6000 | LEAF
    code = ept_entry(Part.CODE, 1) & ~0xFFF
    words[code + 8 * (CODE_PDPT >> PAGE_SHIFT & 511)] = "ept1.code_pdpt", CODE_PDPT | LEAF & ~EXEC
    words[code + 8 * (CODE_PD >> PAGE_SHIFT & 511)] = "ept1.code_pd", CODE_PD | LEAF & ~EXEC

    for name, gva in (("", GVA_LOW), ("[high]", GVA_HIGH)):
        words[guest_entry(4, gva)] = f"pml4e{name}", gpa_of(Part.PDPT) | TABLE
    words[guest_entry(3)] = "pdpte", gpa_of(Part.PD) | TABLE
    words[guest_entry(2)] = "pde", gpa_of(Part.PT) | TABLE
    words[guest_entry(1)] = "pte", gpa_of(Part.DATA) | TABLE | paging.D
    words[guest_entry(1) + 8] = "pte.next", gpa_of(Part.DATA) + 0x1000 | TABLE | paging.D
    words[_HPA[Part.PML4]] = "pml4e.code", CODE_PD_GPA - CODE_PD + CODE_PDPT | TABLE
    words[CODE_PDPT] = "pdpte.code", CODE_PD_GPA | TABLE
    page = gpa_of(Part.CODE) & ~0x1F_FFFF | paging.PS | TABLE | paging.D
    words[CODE_PD + 8 * USER_CODE] = "pde.code[3]", page
    words[CODE_PD + 8 * KERNEL_CODE] = "pde.code[0]", page & ~paging.US
    return words


_WORDS: Final = _template()
TEMPLATE: Final = MappingProxyType({hpa: value for hpa, (_, value) in _WORDS.items()})
"""{hpa: value} of every entry at the start of a case; all of them are compared after it."""
NAMES: Final = MappingProxyType({hpa: name for hpa, (name, _) in _WORDS.items()})
"""{hpa: name} of every entry."""
WATCHED: Final = tuple(TEMPLATE)


def tables(guest_code: bytes) -> bytes:
    """The first TABLES_SIZE bytes of REGION: the entries of TEMPLATE, and the guest's code."""
    region = bytearray(TABLES_SIZE)
    words = TEMPLATE | {PDPTES + PDPTES_OFFSET: CODE_PD_GPA | paging.P}
    for hpa, value in words.items():
        region[hpa - REGION : hpa - REGION + WORD] = value.to_bytes(WORD, "little")
    code = _HPA[Part.CODE] - REGION
    region[code : code + len(guest_code)] = guest_code
    return bytes(region)
