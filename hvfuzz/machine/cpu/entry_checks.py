"""The checks of VM entry on the guest state (SDM Vol. 3C, 27.3.1), for the state that this processor has.

The controls are those of a 64-bit guest: "IA-32e mode guest", "load IA32_EFER", "load IA32_PAT", "unrestricted guest".
"""

from typing import Any, Final

from hvfuzz.machine.addresses import PHYSICAL_RESERVED, is_canonical
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.registers import RFLAGS, RIP, Saved
from hvfuzz.machine.cpu.segments import STACK_SELECTORS
from hvfuzz.machine.mmu import paging

_HIGH_RIP: Final = (1 << 16) - 1
_RFLAGS_ZERO: Final = ~((1 << 22) - 1) | 1 << 15 | 1 << 5 | 1 << 3 | paging.RFLAGS_VM
"""Reserved bits, and VM, which a 64-bit guest cannot have (27.3.1.4)."""
_RFLAGS_ONE: Final = 2
_CR3_ZERO: Final = ~((1 << 52) - 1) | PHYSICAL_RESERVED
_LOADED_MSRS: Final = (
    msrs.SYSENTER_ESP,
    msrs.SYSENTER_EIP,
    msrs.FS_BASE,
    msrs.GS_BASE,
    msrs.PAT,
)
"""MSRs other than EFER that the guest-state area has, and that are checked (27.3.1.1 and 27.3.1.2)."""


def accepts_rip(rip: int) -> bool:
    """Whether VM entry takes this RIP: bits 63..48 are equal (27.3.1.4).

    That is less than canonical: the address after the last one of the lower half passes, so that an instruction there
    can be emulated. The fetch after the entry is what faults.
    """
    return rip >> 48 in (0, _HIGH_RIP)


def accepts(saved: list[Any]) -> bool:
    """Whether VM entry takes the guest state `saved`, indexed as `Vmcs.saved`."""
    flags, efer, cr0, cr4 = saved[RFLAGS], saved[Saved.EFER], saved[Saved.CR0], saved[Saved.CR4]
    values = saved[Saved.MSRS]
    return (
        accepts_rip(saved[RIP])
        and not flags & _RFLAGS_ZERO
        and bool(flags & _RFLAGS_ONE)
        # 27.3.1.1: control registers and MSRs. CD and NW are not checked.
        and not cr0 >> 32
        and cr0 & paging.CR0_FIXED == paging.CR0_FIXED
        and not saved[Saved.CR3] & _CR3_ZERO
        and not cr4 & ~paging.CR4_DEFINED
        and bool(cr4 & paging.CR4_PAE)
        and efer & paging.EFER_64_BIT == paging.EFER_64_BIT
        and not efer & ~paging.EFER_DEFINED
        and all(msrs.can_hold(index, values[index]) for index in _LOADED_MSRS if index in values)
        # 27.3.1.2: CS and SS have the same DPL, and there are segments of these rings only.
        and saved[Saved.CPL] in STACK_SELECTORS
        and all(is_canonical(base) for base in (saved[Saved.IDTR][0], saved[Saved.TR][0]))
        # 27.3.1.3.
        and not saved[Saved.IDTR][1] >> 16
    )
