"""Which ops of other domains address the observer."""

import pytest

from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.oracles.noninterference.channels import DECLARED
from hvfuzz.oracles.noninterference.coalition import kept_until

DOM1 = 1


@pytest.mark.parametrize(
    ("ops", "kept"),
    [
        ("memory.populate(dom2, first=0x100, count=1, order=0)\ncpuid(dom1, leaf=0)\n", (-1, 1, -1)),
        # What a domain did before it addresses the observer is part of what it says.
        ("cpuid(dom2, leaf=0)\nevent.alloc(dom2, remote=dom1)\ncpuid(dom2, leaf=0)\n", (-1, 2, 1)),
        ("event.alloc(dom2, remote=dom0)\nevent.send(dom2, port=0)\n", (-1, 1, -1)),
        ("event.alloc(dom2, remote=dom1)\nevent.send(dom2, port=0)\ncpuid(dom2, leaf=0)\n", (-1, 2, 1)),
        # Memory that is shared once is shared from then on.
        ("grant.create(dom2, gfn=0x40, to=dom1, rights=R)\ncpuid(dom2, leaf=0)\n", (-1, 1, 1)),
        ("grant.create(dom2, gfn=0x40, to=dom0, rights=R)\ncpuid(dom2, leaf=0)\n", (-1, 1, -1)),
        # A third domain speaks through the second.
        ("event.alloc(dom0, remote=dom2)\nevent.alloc(dom2, remote=dom1)\ncpuid(dom0, leaf=0)\n", (0, 2, 1)),
        ("event.alloc(dom2, remote=dom1)\nevent.alloc(dom0, remote=dom2)\n", (-1, 1, 0)),
        ("device.deassign(dom0, device=0)\ncpuid(dom2, leaf=0)\n", (1, 1, 1)),
        ("device.deassign(dom2, device=0)\ncpuid(dom2, leaf=0)\n", (-1, 1, -1)),
        # What the program does not show may be anything.
        ("vmcall(dom2, rax=0x20, rdi=0)\ncpuid(dom2, leaf=0)\n", (-1, 1, 1)),
        ("vmcall(dom2, rax=0x10, rdi=0)\ncpuid(dom2, leaf=0)\n", (-1, 1, -1)),
        ("grant.create(dom2, gfn=0x40, to=dom0, rights=R) !size=8\n", (-1, 0, 0)),
        ("multicall(dom2, count=1)\n", (-1, 0, 0)),
        ("multicall(dom2, count=1)\n  event.alloc(dom2, remote=dom0)\n", (-1, 1, -1)),
        # A batch is one call.
        ("multicall(dom2, count=2)\n  event.alloc(dom2, remote=dom1)\n  sched.yield(dom2)\n", (-1, 2, 2)),
        ("r0 = event.alloc(dom2, remote=dom0)\nevent.close(dom1, port=r0)\n", (-1, 1, 0)),
        ("grant.copy(dom2, flags=DEST_REF, from_domain=SELF, to_domain=dom1, from=0x40, to=0, length=8)\n", (-1, 0, 0)),
        (
            "grant.copy(dom2, flags=DEST_REF, from_domain=dom1, to_domain=dom0, from=0x40, to=0, length=8)\n",
            (-1, 0, -1),
        ),
    ],
)
def test_what_is_kept(ops: str, kept: tuple[int, ...]) -> None:
    program = parse(f"# hvp 1\nworld pair\n{ops}", catalogue(ABI))
    assert kept_until(program, DOM1, 3, DECLARED) == kept
