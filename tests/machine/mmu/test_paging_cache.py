"""The paging-structure caches alone: what they keep, and what each invalidation drops."""

from collections.abc import Callable

import pytest

from hvfuzz.machine.mmu import ept
from hvfuzz.machine.mmu.paging import RW, US
from hvfuzz.machine.mmu.paging_cache import CombinedTableKey
from hvfuzz.machine.mmu.tlb import InvpcidKind, InvvpidKind, Tlb
from hvfuzz.machine.snapshot import Snapshot

GVA = 0x7F12_3456_7000
ELSEWHERE = 0x1234_5000
"""Shares no entry with the others, not even a PML4E."""
PAGE, OTHER = 0x5000, 0x6000

KEYS: list[CombinedTableKey] = [
    (vpid, pcid, root, level, GVA >> shift ^ other)
    for vpid in (0, 1, 2)
    for pcid in (0, 5)
    for root in (0x1000, 0x2000)
    for level, shift in ((2, 21), (3, 30), (4, 39))
    for other in (0, 1)
]


def filled() -> Tlb:
    tlb = Tlb()
    tlb.set_capacity(len(KEYS))
    for key in KEYS:
        tlb.structures.combined[key] = (0x8000, 0x8000, 7, RW | US, 0, key[3])
    for root in (0x1000, 0x2000):
        tlb.structures.keep_ept(root, PAGE, [(0x3000, 7, 3), (0x4000, 7, 2)])
    return tlb


def of_vpid(*vpids: int) -> Callable[[CombinedTableKey], bool]:
    return lambda key: key[0] in vpids


def of_pcid(vpid: int, pcid: int) -> Callable[[CombinedTableKey], bool]:
    return lambda key: key[:2] == (vpid, pcid)


def on_the_way(key: CombinedTableKey) -> bool:
    return key[4] == GVA >> (21, 30, 39)[key[3] - 2]


@pytest.mark.parametrize(
    ("act", "dropped", "of_ept"),
    [
        (lambda tlb: tlb.invlpg(1, 5, ELSEWHERE), of_pcid(1, 5), 0),
        (
            lambda tlb: tlb.invpcid(InvpcidKind.ADDRESS, 1, 5, GVA),
            lambda key: key[:2] == (1, 5) and on_the_way(key),
            0,
        ),
        (lambda tlb: tlb.invpcid(InvpcidKind.SINGLE, 1, 5), of_pcid(1, 5), 0),
        (lambda tlb: tlb.invpcid(InvpcidKind.ALL, 1), of_vpid(1), 0),
        (lambda tlb: tlb.invpcid(InvpcidKind.ALL_GLOBAL, 1), of_vpid(1), 0),
        (lambda tlb: tlb.invvpid(InvvpidKind.ADDRESS, 1, GVA), lambda key: key[0] == 1 and on_the_way(key), 0),
        (lambda tlb: tlb.invvpid(InvvpidKind.SINGLE, 2), of_vpid(2), 0),
        (lambda tlb: tlb.invvpid(InvvpidKind.RETAINING_GLOBALS, 2), of_vpid(2), 0),
        (lambda tlb: tlb.invvpid(InvvpidKind.ALL), of_vpid(1, 2), 0),
        (lambda tlb: tlb.flush_vpid(0), of_vpid(0), 0),
        (lambda tlb: tlb.flush_pcid(2, 5), of_pcid(2, 5), 0),
        (lambda tlb: tlb.invept(ept.eptp_of(0x1000, accessed_dirty=True)), lambda key: key[2] == 0x1000, 2),
        (lambda tlb: tlb.invept(None), lambda key: True, 4),
        (
            lambda tlb: tlb.structures.forget(1, 5, 0x1000, GVA),
            lambda key: key[:3] == (1, 5, 0x1000) and on_the_way(key),
            0,
        ),
        (lambda tlb: tlb.structures.forget_ept(0x2000, OTHER), lambda key: False, 2),
    ],
)
def test_what_each_invalidation_drops(
    act: Callable[[Tlb], None], dropped: Callable[[CombinedTableKey], bool], of_ept: int
) -> None:
    tlb = filled()
    act(tlb)
    assert set(KEYS) - set(tlb.structures.combined) == {key for key in KEYS if dropped(key)}
    assert len(tlb.structures.guest_physical) == 4 - of_ept


def test_a_snapshot_covers_them() -> None:
    tlb = filled()
    snapshot = Snapshot.take(tlb)
    before = list(tlb.structures.combined.items()), list(tlb.structures.guest_physical.items())
    tlb.set_capacity(1)
    tlb.structures.keep(1, 0, 0x9000, GVA, [(0x9000, 0, 7, 0, 0, 2)])
    tlb.structures.keep_ept(0x9000, GVA, [(0x9000, 7, 2)])
    snapshot.restore()
    assert (list(tlb.structures.combined.items()), list(tlb.structures.guest_physical.items())) == before
    assert tlb.structures.capacity == len(KEYS)


def test_eviction_is_first_in_first_out() -> None:
    tlb = Tlb()
    tlb.set_capacity(2)
    caches = tlb.structures
    caches.keep(1, 0, 0, GVA, [(level << 12, 0, 7, 0, 0, level) for level in (4, 3, 2)])
    caches.keep_ept(0, PAGE, [(level << 12, 7, level) for level in (4, 3, 2)])
    assert [key[3] for key in caches.combined] == [key[1] for key in caches.guest_physical] == [3, 2]
    caches.keep(1, 0, 0, GVA, [(0x9000, 0, 7, 0, 0, 3)])
    caches.keep_ept(0, PAGE, [(0x9000, 7, 3)])
    assert [key[3] for key in caches.combined] == [key[1] for key in caches.guest_physical] == [3, 2]
    tlb.set_capacity(1)
    assert [key[3] for key in caches.combined] == [key[1] for key in caches.guest_physical] == [2]
    tlb.set_capacity(0)
    caches.keep(1, 0, 0, GVA, [(0x9000, 0, 7, 0, 0, 3)])
    caches.keep_ept(0, PAGE, [(0x9000, 7, 3)])
    assert not caches.combined
    assert not caches.guest_physical


@pytest.mark.parametrize(
    ("kind", "vpid", "gva"), [(4, 1, 0), (-1, 1, 0), (0, 0, 0), (1, 0, 0), (3, 1 << 16, 0), (0, 1, 1 << 47)]
)
def test_an_invvpid_that_fails_drops_nothing(kind: int, vpid: int, gva: int) -> None:
    tlb = filled()
    with pytest.raises(ValueError, match="INVVPID"):
        tlb.invvpid(kind, vpid, gva)
    assert len(tlb.structures.combined) == len(KEYS)


@pytest.mark.parametrize("kind", InvvpidKind)
def test_what_an_invvpid_drops_of_the_translations(kind: InvvpidKind) -> None:
    tlb = Tlb()
    keys = [(vpid, pcid, 0, page) for vpid in (0, 1, 2) for pcid in (0, 5) for page in (8, 9, 10)]
    for key in keys:
        tlb.insert(key, (0, 7, True, key[3] == 9, 0, 0))
    tlb.insert_guest_physical((0, 8), (0, 7, 0))
    tlb.invvpid(kind, 1, 9 << 12 | 8)
    expected = {
        InvvpidKind.ADDRESS: {key for key in keys if key[0] == 1 and key[3] == 9},
        InvvpidKind.SINGLE: {key for key in keys if key[0] == 1},
        InvvpidKind.ALL: {key for key in keys if key[0] != 0},
        InvvpidKind.RETAINING_GLOBALS: {key for key in keys if key[0] == 1 and key[3] != 9},
    }
    assert set(keys) - set(tlb.combined) == expected[kind]
    assert len(tlb.guest_physical) == 1
