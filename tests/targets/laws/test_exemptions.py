"""Each exemption is needed: a program that the clean hypervisor runs breaks its law without it, and not with it."""

from collections.abc import Iterator
from typing import Final

import pytest

from hvfuzz.guest.format.text import parse
from hvfuzz.targets.laws.exemptions import ALL, REASONS, Exemption
from hvfuzz.targets.laws.law_table import BY_NAME
from hvfuzz.targets.laws.law_target import LawTarget

NEEDS: Final = {
    Exemption.CACHES: (
        "undo",
        """\
load(dom1, gva=DIRECT+0x40000, size=8)
pte(dom1, gva=DIRECT+0x40000, level=1, entry=0)
load(dom1, gva=DIRECT+0x40000, size=8)
""",
    ),
    Exemption.RACED_BATCH: (
        "multicall",
        """\
multicall(dom1, count=2)
  race 8: store(dom1.1, gva=DIRECT+0x10908, size=1, value=0x5a)
console.write(dom1, text=[0x41, 0x42], length=2)
console.write(dom1, text=[0x43, 0x44], length=2)
""",
    ),
    Exemption.OWN_ENTRIES: (
        "multicall",
        """\
sysret(dom1)
multicall(dom1, count=1)
sched.yield(dom1)
""",
    ),
    Exemption.UNREACHABLE_PAGE: (
        "undo",
        """\
memory.decrease(dom1, first=0x10, count=1)
lidt(dom1, gva=DIRECT+0x40000, limit=0xfff)
cpuid(dom1, leaf=0)
""",
    ),
    Exemption.HEAP_NUMBER: ("undo", "event.alloc(dom1, remote=0)\n"),
    Exemption.TABLE_PAGES: ("undo", "memory.populate(dom1, first=0x400, count=1, order=0)\n"),
    Exemption.NAMES_IN_MEMORY: (
        "names",
        """\
store(dom2, gva=DIRECT+0x20000, size=8, value=0x20010)
store(dom2, gva=DIRECT+0x20008, size=8, value=1)
vmcall(dom2, rax=event.alloc, rdi=DIRECT+0x20000)
""",
    ),
    Exemption.NAME_IN_STRUCT: (
        "names",
        """\
event.alloc(dom1, remote=2)
load(dom1, gva=DIRECT+0x10008, size=2)
""",
    ),
}
"""The law, and a program that needs the exemption."""
COPIES_ITS_STRUCT: Final = """\
r0 = grant.create(dom2, gfn=0x40, to=1, rights=R|W)
grant.copy(dom1, flags=DEST_REF, to_domain=2, from=0x10, to=r0, length=64)
load(dom2, gva=DIRECT+0x40000, size=8)
"""


@pytest.fixture(scope="module")
def clean() -> Iterator[LawTarget]:
    """The hypervisor without a fault, with all exemptions."""
    with LawTarget() as target:
        yield target


def identities(target: LawTarget, text: str) -> set[str]:
    """What the laws find in a program of the world `pair`."""
    run = target.run(parse(f"# hvp 1\nworld pair\n{text}", target.catalogue))
    assert run.trace.stopped == ""
    return {finding.oracle + "/" + finding.rule for finding in run.findings}


@pytest.mark.parametrize("exemption", Exemption)
def test_an_exemption_is_needed(exemption: Exemption, clean: LawTarget) -> None:
    law, text = NEEDS[exemption]
    assert identities(clean, text) == set()
    with LawTarget(laws=[BY_NAME[law]], exempt=ALL - {exemption}) as target:
        assert identities(target, text) == {f"laws/{law}"}


def test_each_has_its_law_and_reason() -> None:
    assert REASONS.keys() == NEEDS.keys() == ALL
    for exemption, reason in REASONS.items():
        law, _, why = reason.partition(": ")
        assert law in ("all", NEEDS[exemption][0])
        assert why


def test_what_follows_a_copy_of_a_name_is_not_compared(clean: LawTarget) -> None:
    before = clean.excused["names"]
    assert identities(clean, COPIES_ITS_STRUCT) == set()
    assert clean.excused["names"] == before + 1
