"""Memory map shared by our model and Bochs, and the memory that every case starts from.

All of it lies in REGION: EPT tables, guest tables, and the guest's pages. A gpa is the offset in REGION. One page table
maps the guest's pages, and four entries of the PML4 lead to it, each by the first and the last entries of the tables
between. So page 0 is the first, and page 511 the last, of each half of the canonical addresses, and of each slot.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORD, is_canonical
from hvfuzz.machine.cpu.exception_delivery import TSS_SELECTOR
from hvfuzz.machine.cpu.segments import KERNEL_CS, KERNEL_SS, USER_CS, USER_SS
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.references.bochs.disk import REGION


class Page(IntEnum):
    """A page of the guest by its index in the page table."""

    LOW = 0
    """A kernel stack at the start of each half of the addresses."""
    LOW_END = 1
    RSP0 = 2
    RSP0_END = 3
    IST = 4
    IST_END = 5
    USER_STACK = 6
    USER_STACK_END = 7
    KERNEL_CODE = 8
    USER_CODE = 9
    GDT = 10
    IDT = 12
    IDT_END = 13
    DATA = 15
    TSS = 16
    TSS_1 = 17
    TSS_2 = 18
    TSS_3 = 19
    TOP = 511
    """A kernel stack, and code, at the end of each half of the addresses."""


PAGES: Final = tuple(Page)
USER_PAGES: Final = (Page.USER_STACK, Page.USER_STACK_END, Page.USER_CODE)
HOLE: Final = 14
"""Index of an entry that is not present."""

_LEAF: Final = ept.RIGHTS | ept.MemoryType.WB << ept.MEMORY_TYPE_SHIFT
_TABLE: Final = paging.P | paging.RW | paging.US | paging.A
EPT_ROOT: Final = REGION
_EPT_PDPT: Final = REGION + 0x1000
_EPT_PD: Final = REGION + 0x2000
_EPT_PT: Final = REGION + 0x3000
_PML4: Final = REGION + 0x4000
_PDPT: Final = REGION + 0x5000
_PD: Final = REGION + 0x6000
_PT: Final = REGION + 0x7000
_FIRST_PAGE: Final = REGION + 0x1_0000
MSR_BITMAP: Final = REGION + 0x8000
"""Hpa of the MSR bitmap, which is not mapped for the guest."""
CR3: Final = _PML4 - REGION
TABLES_SIZE: Final = 0x1_0000 + len(Page) * PAGE_SIZE
"""Bytes of REGION that are in use."""

SLOTS: Final = (0, 255, 256, 511)
"""PML4 entries that are present: the first and the last of each half of the addresses."""
HIGH: Final = 0xFFFF_8000_0000_0000
"""Lowest address of the upper half."""
MIDDLE: Final = 0x8000_0000_0000
"""End of the lower half."""

RSP0: Final = 4
IST1: Final = 0x24
IO_BASE: Final = 0x66
TSS_SIZE: Final = 0x68
"""Offsets in the TSS, and its size without I/O bitmap (SDM Vol. 3A, 7.7)."""
ISTS: Final = 7
_GATE: Final = Struct("<HHBBHII")
_HANDLERS: Final = HIGH + 0x10_0000
USER_GATES: Final = range(0x80, 0xC0)
"""Vectors whose gates INT may use in ring 3."""
TRAP_GATES: Final = range(0xA0, 0xE0)


def hpa_of(page: Page) -> int:
    """Hpa of the first byte of a page."""
    return _FIRST_PAGE + PAGES.index(page) * PAGE_SIZE


def gpa_of(page: Page) -> int:
    """Gpa of the first byte of a page."""
    return hpa_of(page) - REGION


def gva_of(index: int, slot: int = 256, last: bool = False) -> int:
    """Linear address of the page with this index in the page table, by a slot and its last entries, if `last`."""
    address = slot << 39 | (0x3FFFF << 21 if last else 0) | index << 12
    return address | (0xFFFF << 48 if slot & 256 else 0)


def pte_of(page: Page) -> int:
    """Hpa of the guest's entry for a page."""
    return _PT + WORD * page


def ept_of(page: Page) -> int:
    """Hpa of the EPT entry for a page."""
    return _EPT_PT + WORD * (gpa_of(page) >> 12)


def gate_of(vector: int) -> int:
    """Hpa of the first word of a gate."""
    return hpa_of(Page.IDT) + 16 * vector


def handler_of(vector: int) -> int:
    """Address of the handler of a vector; nothing runs there."""
    return _HANDLERS + 16 * vector


def page_at(gva: int) -> Page | None:
    """The page that a linear address reaches, or None if there is none."""
    index = gva >> PAGE_SHIFT & 511
    between = gva >> 21 & 0x3FFFF
    if not is_canonical(gva) or gva >> 39 & 511 not in SLOTS or between & 511 not in (0, 511):
        return None
    return Page(index) if between >> 9 in (0, 511) and index in PAGES else None


def encode_gate(target: int, selector: int, kind: int, ist: int = 0) -> tuple[int, int]:
    """The two words of a gate; `kind` is the byte with P, DPL and type (SDM Vol. 3A, 6.14.1)."""
    gate = _GATE.pack(target & 0xFFFF, selector, ist, kind, target >> 16 & 0xFFFF, target >> 32 & 0xFFFF_FFFF, 0)
    return int.from_bytes(gate[:8], "little"), int.from_bytes(gate[8:], "little")


STACK_RSP0: Final = gva_of(Page.RSP0_END) + 0x800


def stack_of_ist(number: int) -> int:
    """The stack that entry `number` (1 to 7) of the interrupt stack table names."""
    return gva_of(Page.IST_END) + 0x200 * number


def _segment(selector: int, code: bool) -> tuple[int, int]:
    dpl = selector & 3
    return selector & ~7, (0x00AF_9B00 if code else 0x00CF_9300) << 32 | 0xFFFF | dpl << 45


def _image() -> bytes:
    image = bytearray(TABLES_SIZE)

    def put(hpa: int, value: int) -> None:
        image[hpa - REGION : hpa - REGION + WORD] = value.to_bytes(WORD, "little")

    put(EPT_ROOT, _EPT_PDPT | ept.RIGHTS)
    put(_EPT_PDPT, _EPT_PD | ept.RIGHTS)
    put(_EPT_PD, _EPT_PT | ept.RIGHTS)
    for table in (_PML4, _PDPT, _PD, _PT):
        put(_EPT_PT + WORD * (table - REGION >> 12), table | _LEAF)
    for slot in SLOTS:
        put(_PML4 + WORD * slot, _PDPT - REGION | _TABLE)
    for index in (0, 511):
        put(_PDPT + WORD * index, _PD - REGION | _TABLE)
        put(_PD + WORD * index, _PT - REGION | _TABLE)
    for page in PAGES:
        put(ept_of(page), hpa_of(page) | _LEAF)
        put(pte_of(page), gpa_of(page) | _TABLE & ~(0 if page in USER_PAGES else paging.US))
        pattern = 0xB0B0_0000_0000_0000 | page << 16
        if page not in (Page.GDT, Page.IDT, Page.TSS):
            for offset in range(0, PAGE_SIZE, WORD):
                put(hpa_of(page) + offset, pattern | offset)
    for selector, code in ((KERNEL_CS, True), (KERNEL_SS, False), (USER_SS, False), (USER_CS, True)):
        offset, descriptor = _segment(selector, code)
        put(hpa_of(Page.GDT) + offset, descriptor)
    put(hpa_of(Page.GDT) + TSS_SELECTOR, 0x0000_8B00_0000_0067)
    for vector in range(256):
        kind = 0x8F if vector in TRAP_GATES else 0x8E
        words = encode_gate(handler_of(vector), KERNEL_CS, kind | (0x60 if vector in USER_GATES else 0))
        put(gate_of(vector), words[0])
        put(gate_of(vector) + WORD, words[1])
    tss = hpa_of(Page.TSS) - REGION
    stacks = {RSP0: STACK_RSP0} | {IST1 + 8 * number: stack_of_ist(number + 1) for number in range(ISTS)}
    for offset, stack in stacks.items():
        image[tss + offset : tss + offset + WORD] = stack.to_bytes(WORD, "little")
    image[tss + IO_BASE : tss + IO_BASE + 2] = TSS_SIZE.to_bytes(2, "little")
    return bytes(image)


IMAGE: Final = _image()
"""The first TABLES_SIZE bytes of REGION at the start of a case."""


def word_at(hpa: int) -> int:
    """The word of IMAGE at an hpa."""
    return int.from_bytes(IMAGE[hpa - REGION : hpa - REGION + WORD], "little")
