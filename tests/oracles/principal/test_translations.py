"""Which translations count: those of the tables, and what the processor may still have cached."""

from __future__ import annotations

from typing import Any

import pytest

from hvfuzz.hypervisor.hypercalls.memory import exchange
from hvfuzz.hypervisor.memory import guest_access

OUT = 0xFFFF_8800_0004_0FF8
"""The last word of a page: a result of two elements crosses into the next one."""


def crossing(rig: Any, *before: str) -> None:
    """Exchange two frames, with a result that crosses a page."""
    rig.run(*before, f"memory.exchange(dom1, gfns=[0x60, 0x61], out={OUT:#x}, count=2, start=0)")


@pytest.mark.parametrize("capacity", [0, 1, 2, 4, 64])
def test_a_result_across_two_pages(rig: Any, capacity: int) -> None:
    crossing(rig, f"tlb(dom1, capacity={capacity})", "pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x50063)")
    assert rig.rules == []


@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_a_stale_entry_that_the_lookup_of_the_second_page_evicts(rig: Any, capacity: int) -> None:
    """The guest changes an entry and flushes nothing; the cache drops what the copy uses before the copy is made."""
    stale = ("load(dom1, gva=DIRECT+0x40000, size=8)", "pte(dom1, gva=DIRECT+0x40000, level=1, entry=0x52063)")
    crossing(rig, f"tlb(dom1, capacity={capacity})", *stale)
    assert rig.rules == []


def test_the_second_page_leads_where_it_led_when_it_was_looked_up(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that begins where the last one ended is no excuse for another frame."""

    def apply(self: Any, hv: Any) -> None:
        vcpu = hv.machine.vcpus[self.vcpu]
        hpa = guest_access.translate_for(hv, vcpu, self.gva, guest_access.WRITE)
        assert hpa is not None
        guest_access.write_at(hv, vcpu, self.gva, hpa, self.data[:8])
        guest_access.write_at(hv, vcpu, self.gva + 8, hpa + 8, self.data[8:])

    monkeypatch.setattr(exchange.PutGuest, "apply", apply)
    crossing(rig, "pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x50063)")
    assert rig.rules == ["fetch/translated"]
